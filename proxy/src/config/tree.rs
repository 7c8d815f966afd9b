//! A YAML file as a tree whose nodes know their lines, and the mistakes that YAML itself allows: tabs, a key twice.

use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::error::Problem;

/// How deep lists and maps may nest. The deepest key of the configuration is at 5.
const MAX_DEPTH: usize = 32;

/// A value and the line where it begins, from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub line: usize,
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    /// One that is not `quoted` may be a number, true, false or nothing.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<(Key, Rc<Node>)>),
}

/// A key of a map.
#[derive(Debug)]
pub(super) struct Key {
    pub name: String,
    pub line: usize,
}

impl Node {
    /// Parses the text of a file.
    pub(super) fn parse(text: &str) -> Result<Rc<Self>, Problem> {
        let mut reader = Reader { parser: Parser::new_from_str(text), text, path: Vec::new(), anchors: Vec::new() };
        reader.document()
    }

    /// The line of a key, or of its deepest parent that exists.
    pub(super) fn line_of(&self, key: &[String]) -> usize {
        let (mut node, mut line) = (self, 1);
        for part in key {
            let next = match &node.kind {
                Kind::Scalar { .. } => None,
                Kind::List(items) => {
                    part.parse().ok().and_then(|at: usize| items.get(at)).map(|item| (item, item.line))
                }
                Kind::Map(entries) => {
                    entries.iter().find(|(key, _)| key.name == *part).map(|(key, value)| (value, key.line))
                }
            };
            let Some((next, at)) = next else { break };
            (node, line) = (next, at);
        }
        line
    }
}

/// Reads the events of the parser into a tree.
struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    /// The key of the node that is being read.
    path: Vec<String>,
    /// What aliases stand for, by the parser's number.
    anchors: Vec<(usize, Rc<Node>)>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Rc<Node>, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(_) if root.is_some() => {
                    let what = "begins a second document";
                    return Err(self.problem(what, "remove the line `---` and what follows it").at(span.start.line()));
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.node(event, span)?),
            }
        }
        let empty = || {
            let remedy = "name at least one upstream: `upstreams: {app: {servers: [127.0.0.1:3000]}}`";
            Problem::new(&[], "is empty", remedy).at(1)
        };
        root.ok_or_else(empty)
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Rc<Node>, Problem> {
        let line = span.start.line();
        if self.path.len() > MAX_DEPTH {
            return Err(self.problem("nests lists and maps too deeply", "close the brackets before it").at(line));
        }
        let (anchor, kind) = match event {
            Event::Alias(id) => {
                let node = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id);
                return node
                    .map(|(_, node)| node.clone())
                    .ok_or_else(|| self.problem("uses an alias of itself", "write the value out").at(line));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                let quoted = style != ScalarStyle::Plain;
                (anchor, Kind::Scalar { text: text.into_owned(), quoted })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                (anchor, Kind::List(self.items()?))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                (anchor, Kind::Map(self.entries()?))
            }
            _ => return Err(self.problem("is not complete", "write a value").at(line)),
        };
        let node = Rc::new(Node { line, kind });
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(node)
    }

    fn items(&mut self) -> Result<Vec<Rc<Node>>, Problem> {
        let mut items = Vec::new();
        loop {
            self.path.push(items.len().to_string());
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                self.path.pop();
                return Ok(items);
            }
            items.push(self.node(event, span)?);
            self.path.pop();
        }
    }

    fn entries(&mut self) -> Result<Vec<(Key, Rc<Node>)>, Problem> {
        let mut entries: Vec<(Key, Rc<Node>)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let name = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.problem("has a key that is not text", "write a name before the colon").at(line)),
            };
            self.path.push(name.clone());
            if let Some((first, _)) = entries.iter().find(|(key, _)| key.name == name) {
                let what = format!("is set twice: on line {} and on line {line}", first.line);
                return Err(self.problem(&what, "remove one of the two").at(line));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            entries.push((Key { name, line }, value));
            self.path.pop();
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.not_yaml(&error)),
            // The stream's end is an event, after which nothing asks.
            None => Err(self.problem("ends early", "complete the last line")),
        }
    }

    fn refuse_tag(&self, tag: Option<&Tag>, line: usize) -> Result<(), Problem> {
        let Some(tag) = tag else { return Ok(()) };
        Err(self
            .problem(
                &format!("has the YAML tag `{}`", tag.to_string().replace("tag:yaml.org,2002:!", "!!")),
                "remove the tag",
            )
            .at(line))
    }

    fn not_yaml(&self, error: &ScanError) -> Problem {
        // An open bracket is noticed behind the last line.
        let line = error.marker().line().min(self.text.lines().count());
        let indented_with_tab = |line: &str| line[..line.len() - line.trim_start().len()].contains('\t');
        if let Some(at) = self.text.lines().take(line + 1).position(indented_with_tab) {
            let what = "is indented with a tab, which YAML does not allow";
            return Problem::new(&[], what, "replace the tab with spaces").at(at + 1);
        }
        if error.info().contains("unknown anchor") {
            let name = self.alias_at(error.marker());
            let what = format!("is the alias `*{name}`, and no value before it has the anchor `&{name}`");
            return self.problem(&what, &format!("write `&{name}` before the value, or write the value here")).at(line);
        }
        let what = format!("is not valid YAML: {}", error.info());
        let remedy = "check the indentation and the brackets, and quote values that contain `: ` or ` #`";
        // There may be no such item in the list.
        let path = self.path.iter().map(String::as_str);
        let path: Vec<&str> = path.clone().take(path.len() - usize::from(self.is_in_list())).collect();
        Problem::new(&path, what, remedy).at(line)
    }

    /// The name of the alias near a marker, which may be before or behind it.
    fn alias_at(&self, marker: &Marker) -> &'a str {
        let line = self.text.lines().nth(marker.line().saturating_sub(1)).unwrap_or_default();
        let (_, name) = line.rsplit_once('*').unwrap_or_default();
        name.split([' ', ',', ']', '}']).next().unwrap_or_default()
    }

    fn is_in_list(&self) -> bool {
        self.path.last().is_some_and(|part| part.parse::<usize>().is_ok())
    }

    fn problem(&self, what: &str, remedy: &str) -> Problem {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        Problem::new(&path, what, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_on_their_lines() {
        let text = "upstreams:\n  a: {servers: [x:1]}\nroutes:\n  - match: {path_prefix: /a}\n    upstream: a\n  - match:\n      path_prefix: b\n    # upstream: nope\n    upstream: nope\n";
        let root = Node::parse(text).expect("valid");
        let line = |key: &str| root.line_of(&key.split('.').map(str::to_owned).collect::<Vec<_>>());
        for (key, wanted) in [
            ("routes.1.upstream", 9),
            ("routes.0.upstream", 5),
            ("routes.1.match.path_prefix", 7),
            ("routes.1.timeouts.idle", 6),
            ("upstreams.a.servers.0", 2),
            ("nothing", 1),
        ] {
            assert_eq!(line(key), wanted, "{key}");
        }
    }

    #[test]
    fn an_alias_is_the_value_of_its_anchor() {
        let root = Node::parse("a: &limits {idle: 5m}\nb: *limits\nc: [&x 1, *x]\n").expect("valid");
        let Kind::Map(entries) = &root.kind else { panic!("{root:?}") };
        assert!(Rc::ptr_eq(&entries[0].1, &entries[1].1));
        assert!(Node::parse("a: &a [*a]\n").is_err(), "an anchor within itself");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let problem = Node::parse(&"[".repeat(100)).expect_err("too deep");
        assert!(problem.to_string().contains("too deeply"), "{problem}");
    }
}
