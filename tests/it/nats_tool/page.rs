//! `docs/nats.md` as its lines.

use harness::project;

/// The page.
pub const PAGE: &str = "docs/nats.md";

/// One line of the page that can be run.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// What it does, as the page says.
    pub says: String,
    pub command: String,
    /// What its output contains.
    pub shows: Vec<String>,
}

impl Line {
    /// A command that is on no page.
    pub fn of(command: &str) -> Self {
        Self { says: String::new(), command: command.to_owned(), shows: Vec::new() }
    }

    /// Whether it ends only when it is stopped.
    pub fn is_live(&self) -> bool {
        self.says.contains(", live")
    }

    /// The programs that it runs besides `nats`.
    pub fn tools(&self) -> Vec<String> {
        // A pipe in quotes belongs to a program of jq.
        let outside: Vec<&str> = self.command.split('\'').step_by(2).collect();
        let parts = outside.concat();
        let parts = parts.split(" | ").skip(1).filter_map(|part| part.split(' ').next());
        parts.map(str::to_owned).collect()
    }

    /// Its words, without quotes.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.command.split(' ').map(|word| word.trim_matches(['"', '\'']))
    }
}

/// The lines of the page, in order.
pub fn lines() -> Vec<Line> {
    lines_of(&project::read(PAGE))
}

fn lines_of(page: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut is_code, mut says) = (false, String::new());
    for line in page.lines() {
        if line.starts_with("```") {
            is_code = line == "```sh";
            continue;
        }
        if !is_code {
            continue;
        }
        if let Some(shown) = line.strip_prefix("#> ") {
            lines.last_mut().expect("a command before what it shows").shows.push(shown.to_owned());
        } else if let Some(sentence) = line.strip_prefix("# ") {
            sentence.clone_into(&mut says);
        } else {
            let says = std::mem::take(&mut says);
            lines.push(Line { says, command: line.to_owned(), shows: Vec::new() });
        }
    }
    lines
}

#[test]
fn a_line_is_a_command_with_a_sentence_before_it_and_what_it_shows_after_it() {
    let page = "text\n```sh\n# It is delivered.\nnats a 'b' | jq 'c | d'\n#> one\n#> two\n# Follows, live.\nnats d\n```\n";
    let [first, second] = lines_of(page).try_into().expect("two lines");
    assert_eq!((first.says.as_str(), first.is_live()), ("It is delivered.", false));
    assert_eq!(first.shows, ["one", "two"]);
    assert_eq!(first.tools(), ["jq"]);
    assert_eq!(first.words().nth(2), Some("b"));
    assert!(second.is_live() && second.command == "nats d" && second.shows.is_empty());
}
