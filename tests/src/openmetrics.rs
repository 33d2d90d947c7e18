//! A strict reader of the OpenMetrics text format, version 1.0.0.
//!
//! It accepts nothing that the specification does not allow: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::collections::{BTreeMap, BTreeSet};

/// Characters in the labels of one exemplar at most.
const EXEMPLAR_CHARS_MAX: usize = 128;

/// Names of labels with their values, in the order of the names.
pub type Labels = BTreeMap<String, String>;

/// A whole text.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// The families by name.
    pub families: BTreeMap<String, Family>,
}

/// All samples of one family.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it means.
    pub help: String,
    /// Its unit, when it has one.
    pub unit: Option<String>,
    /// Its samples, in their order.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name with its suffix.
    pub name: String,
    /// The labels.
    pub labels: Labels,
    /// The value.
    pub value: f64,
    /// Labels and value of its exemplar.
    pub exemplar: Option<(Labels, f64)>,
}

impl Family {
    /// The name under which queries find it.
    pub fn query_name(&self, name: &str) -> String {
        match self.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    }
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Errors
    /// The first line that is not allowed, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
        let (mut read, mut current) = (Self::default(), String::new());
        for line in body.lines() {
            let done = match line.strip_prefix("# ") {
                Some(about) => read.about(about, &mut current),
                None => read.sample(line, &current),
            };
            done.map_err(|why| format!("{why}: {line}"))?;
        }
        for (name, family) in &read.families {
            family.check(name).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(read)
    }

    /// The value of the sample with this name and exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Labels =
            labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let found = |sample: &&Sample| sample.name == name && sample.labels == wanted;
        self.samples().find(found).map(|sample| sample.value)
    }

    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.values().flat_map(|family| &family.samples)
    }

    fn about(&mut self, about: &str, current: &mut String) -> Result<(), String> {
        let [what, name, rest] =
            about.splitn(3, ' ').collect::<Vec<_>>().try_into().map_err(|_| "no metadata")?;
        if *current != name {
            if self.families.contains_key(name) {
                return Err("its family was there before".into());
            }
            current.clear();
            current.push_str(name);
        }
        let family = self.families.entry(name.to_owned()).or_default();
        if !family.samples.is_empty() {
            return Err("metadata after samples".into());
        }
        match what {
            "HELP" if family.help.is_empty() => family.help = rest.to_owned(),
            "TYPE" if family.kind.is_empty() => family.kind = rest.to_owned(),
            "UNIT" if family.unit.is_none() => family.unit = Some(rest.to_owned()),
            _ => return Err("unknown or repeated metadata".into()),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str, current: &str) -> Result<(), String> {
        let sample = sample_of(line)?;
        let family = self.families.get_mut(current).ok_or("no family")?;
        let suffix = sample.name.strip_prefix(current).ok_or("it is of another family")?;
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            _ => return Err("no type".into()),
        };
        if !suffixes.contains(&suffix) {
            return Err(format!("`{suffix}` is no suffix of a {}", family.kind));
        }
        if sample.exemplar.is_some() && !["_total", "_bucket"].contains(&suffix) {
            return Err("it may not have an exemplar".into());
        }
        family.samples.push(sample);
        Ok(())
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        if self.kind.is_empty() || self.help.is_empty() || !is_name(name) {
            return Err("no type, no help, or a name that is not allowed".into());
        }
        if self.unit.as_ref().is_some_and(|unit| !name.ends_with(&format!("_{unit}"))) {
            return Err("it does not end with its unit".into());
        }
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            if !seen.insert((&sample.name, &sample.labels)) {
                return Err(format!("twice: {sample:?}"));
            }
            let is_number = sample.value.is_finite() && sample.value >= 0.0;
            if self.kind != "gauge" && !is_number {
                return Err(format!("less than nothing: {sample:?}"));
            }
        }
        if self.kind == "histogram" { self.check_buckets(name) } else { Ok(()) }
    }

    fn check_buckets(&self, name: &str) -> Result<(), String> {
        let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
            let mut labels = sample.labels.clone();
            let le = labels.remove("le").and_then(|le| le.parse().ok());
            let le: f64 = le.ok_or("a bucket without a bound")?;
            let of = buckets.entry(labels).or_default();
            let below = of.last().copied().unwrap_or((f64::NEG_INFINITY, 0.0));
            if le <= below.0 || sample.value < below.1 {
                return Err(format!("buckets that shrink: {sample:?}"));
            }
            if let Some((_, value)) = &sample.exemplar
                && !(below.0 < *value && *value <= le)
            {
                return Err(format!("an exemplar of another bucket: {sample:?}"));
            }
            of.push((le, sample.value));
        }
        for (labels, of) in &buckets {
            let is_count = |sample: &&Sample| {
                sample.name == format!("{name}_count") && sample.labels == *labels
            };
            let count = self.samples.iter().find(is_count).map(|sample| sample.value);
            if of.last() != count.map(|count| (f64::INFINITY, count)).as_ref() {
                return Err(format!("the last bucket does not have all: {labels:?}"));
            }
        }
        Ok(())
    }
}

fn sample_of(line: &str) -> Result<Sample, String> {
    let (measured, exemplar) = match line.split_once(" # ") {
        Some((measured, exemplar)) => (measured, Some(exemplar)),
        None => (line, None),
    };
    let (name, labels, rest) = named(measured)?;
    if !is_name(&name) {
        return Err("a name that is not allowed".into());
    }
    let exemplar = exemplar.map(|text| {
        let (name, labels, rest) = named(text)?;
        let chars: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut numbers = rest.split(' ').map(number);
        let value = numbers.next().ok_or("an exemplar without a value")??;
        let is_right = name.is_empty() && chars <= EXEMPLAR_CHARS_MAX;
        let has_time = numbers.next().transpose()?.is_none_or(f64::is_finite);
        if !is_right || !has_time || numbers.next().is_some() {
            return Err("an exemplar that is not allowed".to_owned());
        }
        Ok((labels, value))
    });
    Ok(Sample { name, labels, value: number(rest)?, exemplar: exemplar.transpose()? })
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

/// The name, the labels and the rest of `name{label="value",…} rest`.
fn named(text: &str) -> Result<(String, Labels, &str), String> {
    let end = text.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = text.split_at(end);
    let mut labels = Labels::new();
    let Some(mut rest) = rest.strip_prefix('{') else {
        return Ok((name.to_owned(), labels, &rest[1..]));
    };
    loop {
        if let Some(rest) = rest.strip_prefix("} ") {
            return Ok((name.to_owned(), labels, rest));
        }
        if !labels.is_empty() {
            rest = rest.strip_prefix(',').ok_or("labels without a comma")?;
        }
        let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let (value, after) = quoted(after).ok_or("a label without an end")?;
        if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
            return Err(format!("the label `{label}`"));
        }
        rest = after;
    }
}

/// The value before the closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
        a_seconds_sum{of=\"x\"} 0.5\na_seconds_count{of=\"x\"} 2\n\
        a_seconds_bucket{le=\"1.0\",of=\"x\"} 1 # {trace_id=\"0a\"} 0.4 12.5\n\
        a_seconds_bucket{le=\"+Inf\",of=\"x\"} 2\n\
        # HELP b B.\n# TYPE b counter\nb_total 7\n# EOF\n";

    #[test]
    fn a_text_that_is_right_is_read() {
        let read = Exposition::read(GOOD).unwrap();
        assert_eq!(read.value("b_total", &[]), Some(7.0));
        assert_eq!(read.value("a_seconds_count", &[("of", "x")]), Some(2.0));
        assert_eq!(read.families["b"].query_name("b"), "b_total");
    }

    #[test]
    fn a_text_with_any_mistake_is_refused() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("b_total 7", "b 7"),
            ("b_total 7", "b_total -7"),
            ("b_total 7", "b_total 7\nb_total 7"),
            ("b_total 7", "b_total 7\n# TYPE a_seconds counter"),
            ("b_total 7", "b_total 7\na_seconds_sum{of=\"y\"} 1"),
            ("# TYPE b counter\n", ""),
            ("# HELP b B.\n", ""),
            ("# UNIT a_seconds seconds", "# UNIT a_seconds bytes"),
            ("le=\"1.0\",of", "le=\"1.0\" of"),
            ("0.4 12.5", "1.4 12.5"),
            ("} 1 # ", "} 3 # "),
            ("+Inf\",of=\"x\"} 2", "5\",of=\"x\"} 2"),
            ("of=\"x\"} 0.5", "of=\"x} 0.5"),
            ("b_total 7", "b_total seven"),
        ] {
            let wrong = GOOD.replacen(from, to, 1);
            assert!(wrong != GOOD && Exposition::read(&wrong).is_err(), "{wrong}");
        }
    }
}
