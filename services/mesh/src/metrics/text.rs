//! Reads the OpenMetrics text that this process has written, so that whatever else is made of it
//! has the same names, labels and values.

use std::collections::BTreeMap;

/// All values of one name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Family {
    /// Its name, without any suffix.
    pub(super) name: String,
    pub(super) help: String,
    pub(super) kind: FamilyKind,
    pub(super) numbers: Vec<Number>,
    pub(super) histograms: Vec<Distribution>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

/// Names and values of labels.
pub(super) type Labels = Vec<(String, String)>;

/// One value of a counter or a gauge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) labels: Labels,
    pub(super) value: f64,
}

/// One value of a histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Distribution {
    pub(super) labels: Labels,
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bounds, the infinite one included, each with how many values are not above it.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) exemplars: Vec<Exemplar>,
}

/// A single value with its trace.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Exemplar {
    pub(super) labels: Labels,
    pub(super) value: f64,
    /// Seconds since 1970.
    pub(super) at: Option<f64>,
}

/// The families of a text; a line that cannot be read is left out.
pub(super) fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help.extend(rest.split_once(' '));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { continue };
            let kind = match kind {
                "counter" => FamilyKind::Counter,
                "histogram" => FamilyKind::Histogram,
                "info" => FamilyKind::Info,
                _ => FamilyKind::Gauge,
            };
            let help = help.get(name).map_or("", |help| help.trim_end_matches('.')).to_owned();
            let (numbers, histograms) = (Vec::new(), Vec::new());
            families.push(Family { name: name.to_owned(), help, kind, numbers, histograms });
        } else if !line.starts_with('#')
            && let Some(family) = families.last_mut()
        {
            let _ = add_line(family, line);
        }
    }
    families
}

fn add_line(family: &mut Family, line: &str) -> Option<()> {
    let (measured, exemplar) = match line.split_once(" # ") {
        Some((measured, exemplar)) => (measured, Some(exemplar)),
        None => (line, None),
    };
    let (name, mut labels, rest) = named(measured)?;
    let value: f64 = rest.split(' ').next()?.parse().ok()?;
    let suffix = name.strip_prefix(family.name.as_str())?;
    if family.kind != FamilyKind::Histogram {
        family.numbers.push(Number { labels, value });
        return Some(());
    }
    let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
    let is_new = family.histograms.last().is_none_or(|last| last.labels != labels);
    if is_new {
        family.histograms.push(Distribution { labels, ..Distribution::default() });
    }
    let histogram = family.histograms.last_mut()?;
    match suffix {
        "_sum" => histogram.sum = value,
        "_count" => histogram.count = value as u64,
        _ => {
            let bound = bound?.parse().ok()?;
            histogram.buckets.push((bound, value as u64));
            histogram.exemplars.extend(exemplar.and_then(exemplar_of));
        }
    }
    Some(())
}

fn exemplar_of(text: &str) -> Option<Exemplar> {
    let (_, labels, rest) = named(text)?;
    let mut numbers = rest.split(' ').map(str::parse);
    Some(Exemplar { labels, value: numbers.next()?.ok()?, at: numbers.next().and_then(Result::ok) })
}

/// The name, the labels and the rest of `name{label="value",…} rest`.
fn named(text: &str) -> Option<(&str, Labels, &str)> {
    let end = text.find(['{', ' '])?;
    let (name, rest) = text.split_at(end);
    let Some(mut rest) = rest.strip_prefix('{') else {
        return Some((name, Vec::new(), &rest[1..]));
    };
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((name, labels, rest.trim_start()));
        }
        let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((label.to_owned(), value));
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
                escaped => escaped,
            }),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_with_its_labels_buckets_and_exemplars() {
        let text = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
             a_seconds_sum{of=\"x, \\\"y\\\"\\n\"} 0.5\na_seconds_count{of=\"x, \\\"y\\\"\\n\"} 2\n\
             a_seconds_bucket{le=\"1.0\",of=\"x, \\\"y\\\"\\n\"} 2 # {trace_id=\"0a\"} 0.4 12.5\n\
             a_seconds_bucket{le=\"+Inf\",of=\"x, \\\"y\\\"\\n\"} 2\n\
             # HELP b B.\n# TYPE b counter\nb_total 7\n# EOF\n";
        let [a, b] = &families(text)[..] else { panic!("two families") };
        let [histogram] = &a.histograms[..] else { panic!("{a:?}") };
        assert_eq!((a.name.as_str(), a.help.as_str()), ("a_seconds", "Time"));
        assert_eq!(histogram.labels, [("of".to_owned(), "x, \"y\"\n".to_owned())]);
        assert_eq!((histogram.sum, histogram.count), (0.5, 2));
        assert_eq!(histogram.buckets, [(1.0, 2), (f64::INFINITY, 2)]);
        let exemplar = &histogram.exemplars[0];
        assert_eq!((exemplar.value, exemplar.at), (0.4, Some(12.5)));
        assert_eq!(exemplar.labels, [("trace_id".to_owned(), "0a".to_owned())]);
        assert_eq!(b.numbers, [Number { labels: vec![], value: 7.0 }]);
        assert_eq!((b.name.as_str(), b.kind), ("b", FamilyKind::Counter));
    }
}
