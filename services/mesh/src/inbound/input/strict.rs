//! Reads a tree as the expected type.

use std::vec;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Visitor},
};

use super::{flaw::Flaw, tree::Tree};

/// A deserializer over a tree; the type says what it expects.
pub(super) struct Strict(pub(super) Tree);

type Read<T> = Result<T, Flaw>;

impl Strict {
    /// A whole number within bounds.
    fn whole(&self, min: i128, max: i128) -> Read<i128> {
        let number = match &self.0 {
            Tree::Whole(number) => Some(*number),
            Tree::Word(word) => digits(word),
            _ => None,
        };
        number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            // The bounds of 64 bits are of no use to a caller.
            let wanted = match (min, max) {
                (min, max) if max < i64::MAX.into() => format!("a whole number, {min} to {max}"),
                (0, _) => "a whole number, 0 or more".into(),
                _ if number.is_some() => "a smaller number".into(),
                _ => "a whole number".into(),
            };
            Flaw::wanted(&wanted, &self.0)
        })
    }
}

/// A number of an optional minus sign and digits, nothing else.
fn digits(word: &str) -> Option<i128> {
    let unsigned = word.strip_prefix('-').unwrap_or(word);
    let is_number = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten()
}

macro_rules! whole {
    ($($method:ident $visit:ident $kind:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            let number = self.whole(<$kind>::MIN.into(), <$kind>::MAX.into())?;
            visitor.$visit(<$kind>::try_from(number).expect("within its bounds"))
        }
    )+};
}

macro_rules! as_any {
    ($($method:ident)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            self.deserialize_any(visitor)
        }
    )+};
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Flaw;

    whole! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
    }

    as_any! {
        deserialize_f32 deserialize_f64 deserialize_char deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(value),
            Tree::Whole(number) => match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => visitor.visit_i128(number),
            },
            Tree::Fraction(value) => visitor.visit_f64(value),
            Tree::Text(text) | Tree::Word(text) => visitor.visit_string(text),
            Tree::List(list) => visitor.visit_seq(Entries { at: 0, left: list.into_iter() }),
            Tree::Object(members) => visitor.visit_map(Members::of(members)?),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match &self.0 {
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Word(word) if word == "true" => visitor.visit_bool(true),
            Tree::Word(word) if word == "false" => visitor.visit_bool(false),
            other => Err(Flaw::wanted("`true` or `false`", other)),
        }
    }

    /// Ids and times deserialize by this; their visitors say what they expect.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::Text(text) | Tree::Word(text) => visitor.visit_string(text),
            other => {
                let wanted: &dyn Expected = &visitor;
                let wanted = wanted.to_string();
                let is_ours = ["an id", "a time"].iter().any(|begin| wanted.starts_with(begin));
                Err(Flaw::wanted(if is_ours { &wanted } else { "a text" }, &other))
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::Text(text) | Tree::Word(text) => visitor.visit_string(text),
            other => Err(Flaw::wanted("a text", &other)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Read<V::Value> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::List(list) => visitor.visit_seq(Entries { at: 0, left: list.into_iter() }),
            other => Err(Flaw::wanted("a list", &other)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Read<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Read<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Tree::Object(members) => visitor.visit_map(Members::of(members)?),
            other => Err(Flaw::wanted("an object", &other)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        if let Tree::Object(members) = &self.0 {
            let names = members.iter().map(|(name, _)| name.as_str());
            let unknown: Vec<&str> = names.filter(|name| !fields.contains(name)).collect();
            if !unknown.is_empty() {
                return Err(Flaw::unknown(&unknown, fields));
            }
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match self.0 {
            Tree::Text(word) | Tree::Word(word) if variants.contains(&word.as_str()) => {
                visitor.visit_enum(word.into_deserializer())
            }
            other => Err(Flaw::one_of(variants, &other)),
        }
    }
}

/// The entries of a list that are not read yet.
struct Entries {
    at: usize,
    left: vec::IntoIter<Tree>,
}

impl<'de> SeqAccess<'de> for Entries {
    type Error = Flaw;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(entry) = self.left.next() else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        seed.deserialize(Strict(entry)).map(Some).map_err(|flaw| flaw.at_place(at))
    }
}

/// The members of an object that are not read yet.
struct Members {
    left: vec::IntoIter<(String, Tree)>,
    value: Option<(String, Tree)>,
}

impl Members {
    /// Refuses two members of the same name.
    fn of(members: Vec<(String, Tree)>) -> Read<Self> {
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Flaw::twice(pair[0]));
        }
        Ok(Self { left: members.into_iter(), value: None })
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Flaw;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        let key = seed.deserialize(Strict(Tree::Text(name.clone())))?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        let (name, value) = self.value.take().expect("a value follows its key");
        seed.deserialize(Strict(value)).map_err(|flaw| flaw.at_member(&name))
    }
}
