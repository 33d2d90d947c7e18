//! MessagePack, as far as a call needs it: texts, lists and maps, which `cmsgpack` unpacks. One
//! packed argument costs Valkey far less than thousands of single ones.

/// The bytes packed so far.
#[derive(Default)]
pub(super) struct Pack(pub(super) Vec<u8>);

impl Pack {
    /// Begins a list; its `len` items follow.
    pub(super) fn list(&mut self, len: usize) {
        self.head(len, [(16, 0x90), (0, 0), (1 << 16, 0xdc), (1 << 32, 0xdd)]);
    }

    pub(super) fn text(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        self.head(text.len(), [(32, 0xa0), (1 << 8, 0xd9), (1 << 16, 0xda), (1 << 32, 0xdb)]);
        self.0.extend_from_slice(text);
    }

    /// Begins a map of the fields that are not empty and one more entry, whose value follows.
    pub(super) fn map(&mut self, fields: &[(&str, &[u8])], last: &str) {
        let given = fields.iter().filter(|(_, value)| !value.is_empty());
        let len = given.clone().count() + 1;
        self.head(len, [(16, 0x80), (0, 0), (1 << 16, 0xde), (1 << 32, 0xdf)]);
        for (name, value) in given {
            self.text(name);
            self.text(value);
        }
        self.text(last);
    }

    /// Writes a tag and a length: by the bounds, the length goes into the tag itself or into one,
    /// two or four bytes.
    fn head(&mut self, len: usize, forms: [(usize, u8); 4]) {
        let form = forms.iter().position(|(bound, _)| len < *bound).expect("less than 4 GiB");
        let tag = forms[form].1;
        match form {
            0 => self.0.push(tag | len as u8),
            _ => {
                self.0.push(tag);
                let width = [0, 1, 2, 4][form];
                self.0.extend_from_slice(&len.to_be_bytes()[8 - width..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_the_shortest_head() {
        let head = |pack: &dyn Fn(&mut Pack), len: usize| {
            let mut out = Pack::default();
            pack(&mut out);
            out.0[..len].to_vec()
        };
        for (len, wanted) in [
            (31, &[0xbf][..]),
            (32, &[0xd9, 32]),
            (255, &[0xd9, 255]),
            (256, &[0xda, 1, 0]),
            (65_536, &[0xdb, 0, 1, 0, 0]),
        ] {
            assert_eq!(head(&|out| out.text(vec![b'x'; len]), wanted.len()), wanted);
        }
        for (len, wanted) in [(15, &[0x9f][..]), (16, &[0xdc, 0, 16])] {
            assert_eq!(head(&|out| out.list(len), wanted.len()), wanted);
        }
    }

    #[test]
    fn a_map_leaves_out_empty_fields() {
        let mut out = Pack::default();
        out.map(&[("a", b"1"), ("b", b"")], "c");
        assert_eq!(out.0, b"\x82\xa1a\xa11\xa1c");
    }
}
