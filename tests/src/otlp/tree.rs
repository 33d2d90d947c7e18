//! The spans of one trace as a tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use super::span::Span;

/// A trace that is one tree: one id, one root, every parent among its spans.
///
/// Children are kept in the order in which they began, so a walk from the root follows the
/// saga in causal order: a cause always comes before what it caused.
#[derive(Debug, Clone)]
pub struct Tree {
    spans: Vec<Span>,
    root: usize,
    children: Vec<Vec<usize>>,
}

impl Tree {
    /// Checks the spans and puts them in order.
    ///
    /// # Errors
    /// What is wrong with them, with a drawing of the trace.
    pub fn of(spans: &[Span]) -> Result<Self, String> {
        let wrong = |what: String| Err(format!("{what}\n{}", draw(spans)));
        let mut spans_by_start = spans.to_vec();
        spans_by_start.sort_by_key(|span| span.began_nanos);
        let ids: BTreeSet<_> = spans.iter().map(|span| &span.trace_id).collect();
        if ids.len() != 1 {
            return wrong(format!("{} traces instead of one", ids.len()));
        }
        let mut places = BTreeMap::new();
        for (place, span) in spans_by_start.iter().enumerate() {
            if places.insert(span.span_id.clone(), place).is_some() {
                return wrong(format!("two spans with the id {}", span.span_id));
            }
        }
        let mut roots = Vec::new();
        let mut children = vec![Vec::new(); spans.len()];
        for (place, span) in spans_by_start.iter().enumerate() {
            match &span.parent_id {
                None => roots.push(place),
                Some(parent) => match places.get(parent) {
                    Some(parent) => children[*parent].push(place),
                    None => return wrong(format!("orphan: {} {}", span.service, span.name)),
                },
            }
        }
        let &[root] = roots.as_slice() else {
            return wrong(format!("{} roots instead of one", roots.len()));
        };
        let tree = Self { spans: spans_by_start, root, children };
        if tree.walk().len() != spans.len() {
            return wrong("some spans are each other's parents".to_owned());
        }
        Ok(tree)
    }

    /// How many spans there are.
    pub fn spans(&self) -> usize {
        self.spans.len()
    }

    /// The span with this id.
    pub fn span(&self, span_id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.span_id == span_id)
    }

    /// What this span has caused directly.
    pub fn children(&self, of: &Span) -> impl Iterator<Item = &Span> {
        let place = self.spans.iter().position(|span| span.span_id == of.span_id);
        let children = place.map_or(&[][..], |place| &self.children[place]);
        children.iter().map(|child| &self.spans[*child])
    }

    /// The root.
    pub fn root(&self) -> &Span {
        &self.spans[self.root]
    }

    /// The spans of this name, in causal order.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.walk().into_iter().map(|(_, at)| &self.spans[at]).filter(|s| s.name == name).collect()
    }

    /// Each service once, in causal order: where it first appears on a walk from the root.
    pub fn services(&self) -> Vec<&str> {
        let mut services: Vec<&str> = Vec::new();
        for (_, at) in self.walk() {
            let service = self.spans[at].service.as_str();
            if !services.contains(&service) {
                services.push(service);
            }
        }
        services
    }

    /// The path from the root to each leaf, as the services it passes through.
    pub fn paths(&self) -> Vec<Vec<&str>> {
        let mut paths = Vec::new();
        let mut path: Vec<&str> = Vec::new();
        for (depth, at) in self.walk() {
            path.truncate(depth);
            path.push(&self.spans[at].service);
            if self.children[at].is_empty() {
                let mut passed = path.clone();
                passed.dedup();
                paths.push(passed);
            }
        }
        paths
    }

    /// Asserts that some path from the root begins with these services: each was caused by
    /// the one before it.
    ///
    /// # Panics
    /// When there is none; the message shows the tree.
    #[track_caller]
    pub fn assert_path(&self, services: &[&str]) {
        let found = self.paths().iter().any(|path| path.starts_with(services));
        assert!(found, "no path through {services:?} in\n{self}");
    }

    /// Whether these spans form a path, each the child of the one before it and the first one
    /// the root; each is given as `service: name`.
    pub fn has_path(&self, steps: &[&str]) -> bool {
        let mut at_step = vec![self.root];
        for (index, step) in steps.iter().enumerate() {
            if index > 0 {
                at_step = at_step.iter().flat_map(|at| self.children[*at].clone()).collect();
            }
            at_step.retain(|at| {
                let span = &self.spans[*at];
                step.split_once(": ") == Some((&span.service, &span.name))
            });
        }
        !at_step.is_empty()
    }

    /// Every span, causes first.
    pub fn all(&self) -> impl Iterator<Item = &Span> {
        self.walk().into_iter().map(|(_, at)| &self.spans[at])
    }

    /// Every span with its depth, causes first.
    fn walk(&self) -> Vec<(usize, usize)> {
        let mut walk = Vec::with_capacity(self.spans.len());
        let mut open = vec![(0, self.root)];
        while let Some((depth, at)) = open.pop() {
            walk.push((depth, at));
            open.extend(self.children[at].iter().rev().map(|child| (depth + 1, *child)));
        }
        walk
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&draw(&self.spans))
    }
}

/// Draws any spans, whether they form a tree or not: each below its parent, orphans at the left.
pub(super) fn draw(spans: &[Span]) -> String {
    let Some(zero) = spans.iter().map(|span| span.began_nanos).min() else {
        return "no spans\n".to_owned();
    };
    let known: BTreeSet<_> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut order: Vec<&Span> = spans.iter().collect();
    order.sort_by_key(|span| span.began_nanos);
    let mut text = format!("trace {}\n", spans[0].trace_id);
    let at_the_left =
        |span: &&&Span| span.parent_id.as_deref().is_none_or(|parent| !known.contains(parent));
    let mut open: Vec<(usize, &Span)> =
        order.iter().rev().filter(at_the_left).map(|span| (0, *span)).collect();
    while let Some((depth, span)) = open.pop() {
        let mark = match (&span.error, depth, &span.parent_id) {
            (Some(_), ..) => "!",
            (None, 0, Some(_)) => "?",
            _ => " ",
        };
        let (from, took) =
            (span.began_nanos - zero, span.ended_nanos.saturating_sub(span.began_nanos));
        let _ = writeln!(
            text,
            "{mark} {:>9.3} ms {:>9.3} ms  {:indent$}{}: {}",
            from as f64 / 1e6,
            took as f64 / 1e6,
            "",
            span.service,
            span.name,
            indent = 2 * depth,
        );
        let below = order.iter().rev().filter(|s| s.parent_id.as_deref() == Some(&span.span_id));
        open.extend(below.map(|child| (depth + 1, *child)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, service: &str, began: u64) -> Span {
        Span {
            trace_id: "t".into(),
            span_id: id.into(),
            parent_id: parent.map(Into::into),
            links: vec![],
            service: service.into(),
            name: format!("do {id}"),
            began_nanos: began * 1_000_000,
            ended_nanos: began * 1_000_000 + 500_000,
            attributes: BTreeMap::new(),
            error: None,
        }
    }

    fn saga() -> Vec<Span> {
        vec![
            span("d", Some("b"), "reservation", 3),
            span("a", None, "gateway", 0),
            span("c", Some("b"), "point", 2),
            span("e", Some("c"), "reservation", 4),
            span("b", Some("a"), "payment", 1),
        ]
    }

    #[test]
    fn a_tree_lists_causes_before_what_they_caused() {
        let tree = Tree::of(&saga()).unwrap();
        assert_eq!(tree.services(), ["gateway", "payment", "point", "reservation"]);
        assert_eq!(
            tree.paths(),
            [
                vec!["gateway", "payment", "point", "reservation"],
                vec!["gateway", "payment", "reservation"]
            ]
        );
        tree.assert_path(&["gateway", "payment", "point"]);
        assert_eq!(tree.named("do e")[0].service, "reservation");
        assert!(tree.has_path(&["gateway: do a", "payment: do b", "point: do c"]));
        assert!(!tree.has_path(&["gateway: do a", "point: do c"]));
        assert!(!tree.has_path(&["payment: do b"]), "a path begins at the root");
    }

    #[test]
    fn an_orphan_is_named_and_drawn() {
        let spans: Vec<_> = saga().into_iter().filter(|span| span.span_id != "c").collect();
        let why = Tree::of(&spans).unwrap_err();
        assert!(why.starts_with("orphan: reservation do e") && why.contains("\n?"), "{why}");
    }

    #[test]
    fn a_second_root_a_second_trace_and_a_cycle_are_refused() {
        let mut two = saga();
        two.push(span("z", None, "user", 9));
        assert!(Tree::of(&two).unwrap_err().starts_with("2 roots"));
        two[5].trace_id = "u".into();
        assert!(Tree::of(&two).unwrap_err().starts_with("2 traces"));
        let mut ring = saga();
        ring.extend([span("x", Some("y"), "user", 5), span("y", Some("x"), "user", 6)]);
        assert!(Tree::of(&ring).unwrap_err().starts_with("some spans are each other's parents"));
        assert!(Tree::of(&[]).is_err());
    }

    #[test]
    #[should_panic(expected = "no path through")]
    fn a_missing_path_fails_with_the_tree() {
        Tree::of(&saga()).unwrap().assert_path(&["gateway", "point"]);
    }
}
