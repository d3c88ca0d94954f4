//! The rules of ARCHITECTURE.md that a program can check: layers, no cycles, adapters apart, files of a bearable size.
//!
//! The sources are read as tokens, not compiled: every path that begins with `crate`, `super`, `self` or the name of a
//! child module counts as an import, wherever it stands. A name that a module re-exports counts as an import of the file
//! that defines it. Test modules are bound by the layers too, but may close cycles.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says with a panic what is wrong")]

#[path = "architecture/traps.rs"]
mod traps;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The layers, lowest first, and whether modules of one layer may import each other.
const LAYERS: [(&str, &[&str], bool); 6] = [
    ("vocabulary", &["lsn", "types", "schema", "selection", "event", "progress", "retry"], true),
    ("codecs", &["pgoutput", "avro"], false),
    ("clients", &["postgres"], false),
    ("adapters", &["source", "registry", "kafka", "sink", "record"], false),
    ("wiring", &["pipeline"], false),
    ("shell", &["config", "cli", "http", "telemetry", "error"], true),
];

/// What the layers without I/O must not name.
const IO: [&str; 5] = ["tokio", "std::fs", "std::net", "rdkafka", "reqwest"];

const LONGEST_FILE: usize = 600;
const LONGEST_MAIN: usize = 99;

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 10, "no sources in {}", root.display());
    let violations = check(&sources);
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// The build in the image sees only what `.dockerignore` lets through.
#[test]
fn what_the_program_includes_reaches_the_image() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ignore = fs::read_to_string(root.join(".dockerignore")).unwrap();
    let sent: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut sources = Vec::new();
    collect(&root.join("src"), &root.join("src"), &mut sources);
    let mut included = 0;
    for (file, text) in sources.iter().filter(|(file, _)| !file.ends_with("_tests.rs")) {
        let folder = Path::new("src").join(file).parent().unwrap().to_owned();
        for macro_ in ["include_str!(\"", "include_bytes!(\"", "include!(\""] {
            for (at, _) in before_tests(text).match_indices(macro_) {
                let path = text[at + macro_.len()..].split('"').next().unwrap();
                let place = fs::canonicalize(root.join(&folder).join(path)).unwrap();
                let place = place.strip_prefix(fs::canonicalize(root).unwrap()).unwrap();
                let top = place.iter().next().unwrap().to_str().unwrap();
                assert!(sent.contains(top), "{file} includes {path}, but .dockerignore keeps {top} from the image");
                included += 1;
            }
        }
    }
    assert!(included > 0, "no included file found");
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            sources.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    sources.sort();
}

/// All violations of the rules in these files (path below `src`, text).
fn check(sources: &[(String, String)]) -> Vec<String> {
    let crate_ = Crate::new(sources);
    let mut violations = Vec::new();
    for (file, text) in sources {
        violations.extend(check_text(file, text));
    }
    for module in crate_.files.keys().filter_map(|module| module.first()).collect::<BTreeSet<_>>() {
        if layer(module).is_none() && module != "main" {
            violations.push(format!("{module}: belongs to no layer"));
        }
    }
    for (module, file) in &crate_.files {
        for target in crate_.imports(module, &file.all) {
            violations.extend(check_layers(module, &target));
        }
    }
    violations.extend(crate_.cycles());
    violations
}

fn check_text(file: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    if !text.starts_with("//!") {
        violations.push(format!("{file}: does not open with //!"));
    }
    let lines = before_tests(text).lines().count();
    if lines > LONGEST_FILE {
        violations.push(format!("{file}: {lines} lines before its tests, at most {LONGEST_FILE} are bearable"));
    }
    if file == "main.rs" && text.lines().count() > LONGEST_MAIN {
        violations.push(format!("{file}: {} lines, at most {LONGEST_MAIN} are thin", text.lines().count()));
    }
    let module = module_of(file);
    if module.first().and_then(|name| layer(name)).is_some_and(|layer| layer < 2) {
        let code = tokens(before_tests(text)).join("");
        for name in IO.iter().filter(|name| code.contains(&format!("{name}::"))) {
            violations.push(format!("{file}: names {name}, but its layer does no I/O"));
        }
    }
    violations
}

fn check_layers(from: &[String], to: &[String]) -> Option<String> {
    let (Some(from), Some(to)) = (from.first(), to.first()) else { return None };
    let (lower, upper) = (layer(to)?, layer(from)?);
    if from == to || lower < upper {
        return None;
    }
    let (name, _, may_meet) = LAYERS[upper];
    match lower == upper {
        true if may_meet => None,
        true => Some(format!("{from} imports {to}: both are {name}, which never import each other")),
        false => Some(format!("{from} imports {to}, from a layer above it")),
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules, _)| modules.contains(&module))
}

/// A module's path below the crate: `src/kafka/topic.rs` is `kafka::topic`, `src/lib.rs` is the empty path.
type Module = Vec<String>;

struct File {
    /// Paths in the code before the tests, each absolute.
    code: Vec<Module>,
    /// Paths anywhere in the file.
    all: Vec<Module>,
    /// Names that `use` brings in, with what they stand for.
    names: BTreeMap<String, Module>,
}

struct Crate {
    files: BTreeMap<Module, File>,
}

impl Crate {
    fn new(sources: &[(String, String)]) -> Self {
        let modules: BTreeSet<Module> = sources.iter().map(|(file, _)| module_of(file)).collect();
        let files = sources.iter().map(|(file, text)| {
            let module = module_of(file);
            let (code, names) = paths(&module, &tokens(before_tests(text)), &modules);
            let (all, _) = paths(&module, &tokens(text), &modules);
            (module, File { code, all, names })
        });
        Self { files: files.collect() }
    }

    /// The files that these paths lead to, without the file itself.
    fn imports(&self, from: &Module, paths: &[Module]) -> BTreeSet<Module> {
        paths.iter().map(|path| self.resolve(path, 0)).filter(|target| target != from && !target.is_empty()).collect()
    }

    /// The file that defines what a path names.
    fn resolve(&self, path: &Module, depth: usize) -> Module {
        let mut module = Module::new();
        for (index, segment) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(segment)].concat();
            if self.files.contains_key(&child) {
                module = child;
                continue;
            }
            let known = self.files.get(&module).and_then(|file| file.names.get(segment));
            return match known {
                Some(target) if depth < 8 => self.resolve(&[target.as_slice(), &path[index + 1..]].concat(), depth + 1),
                _ => module,
            };
        }
        module
    }

    fn cycles(&self) -> Vec<String> {
        let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, file) in &self.files {
            for to in self.imports(from, &file.code) {
                files.entry(from.join("::")).or_default().insert(to.join("::"));
                if let (Some(from), Some(to)) = (from.first(), to.first().filter(|to| from.first() != Some(to))) {
                    modules.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        let describe = |what: &str, graph| {
            circles(graph).into_iter().map(move |circle| format!("{what} cycle: {circle}")).collect::<Vec<_>>()
        };
        [describe("module", &modules), describe("file", &files)].concat()
    }
}

/// One circle through every node that lies on one, each circle once.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in graph.keys() {
        let mut trail = BTreeMap::from([(start, None)]);
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for next in graph.get(node).into_iter().flatten() {
                if next == start {
                    let mut circle: Vec<&str> =
                        std::iter::successors(Some(node), |node| trail[*node]).map(String::as_str).collect();
                    circle.reverse();
                    let first = circle.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(index, _)| index);
                    circle.rotate_left(first);
                    circle.push(circle[0]);
                    found.insert(circle.join(" -> "));
                    queue.clear();
                    break;
                }
                if !trail.contains_key(next) {
                    trail.insert(next, Some(node));
                    queue.push_back(next);
                }
            }
        }
    }
    found
}

fn module_of(file: &str) -> Module {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Module::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// Identifiers, `::` and single signs; comments, texts and characters left out.
fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    while at < bytes.len() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_text(rest) {
            length
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if rest.starts_with('\'') {
            character(rest)
        } else if is_word(bytes[at]) {
            let length = rest.bytes().take_while(|byte| is_word(*byte)).count();
            tokens.push(&rest[..length]);
            length
        } else if rest.starts_with("::") {
            tokens.push("::");
            2
        } else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            if !rest.starts_with(char::is_whitespace) {
                tokens.push(&rest[..length]);
            }
            length
        };
        at += length;
    }
    tokens
}

/// Length of a text in `"` with escapes.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Length of `r"…"`, `br#"…"#` and the like; `None` when it is something else.
fn raw_text(rest: &str) -> Option<usize> {
    let marked = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
    let hashes = marked.bytes().take_while(|byte| *byte == b'#').count();
    let body = marked[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// Length of a character literal, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => quoted(rest, b'\''),
        Some(_) if chars.next().is_some_and(|(_, next)| next == '\'') => quoted(rest, b'\''),
        _ => 1,
    }
}

/// All absolute paths that a file names, and what its `use` declarations bring in.
fn paths(module: &Module, tokens: &[&str], modules: &BTreeSet<Module>) -> (Vec<Module>, BTreeMap<String, Module>) {
    let mut found = Vec::new();
    let mut names = BTreeMap::new();
    let mut inner: Vec<usize> = Vec::new(); // depths of braces at which inline modules opened
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            "{" => {
                depth += 1;
                if at >= 2 && tokens[at - 2] == "mod" {
                    inner.push(depth);
                }
            }
            "}" => {
                inner.retain(|opened| *opened != depth);
                depth -= 1;
            }
            _ => {}
        }
        let continues = at > 0 && tokens[at - 1] == "::";
        let in_group = at > 0 && matches!(tokens[at - 1], "{" | ",") && !starts_statement(tokens, at);
        if continues || in_group && !matches!(*token, "crate" | "super" | "self") {
            continue;
        }
        let Some(base) = base(module, inner.len(), tokens, at, modules) else { continue };
        let mut tree = Tree { tokens, at, found: Vec::new() };
        tree.path(&mut base.clone(), base_length(tokens, at));
        if at > 0 && tokens[at - 1] == "use" && inner.is_empty() {
            names.extend(tree.found.iter().filter_map(|(path, name)| Some((name.clone()?, path.clone()))));
        }
        found.extend(tree.found.into_iter().map(|(path, _)| path));
    }
    (found, names)
}

/// Whether the token after a brace or comma begins an expression or item rather than a branch of a `use` tree.
fn starts_statement(tokens: &[&str], at: usize) -> bool {
    let mut open = 0;
    for index in (0..at).rev() {
        match tokens[index] {
            "}" => open += 1,
            "{" if open > 0 => open -= 1,
            "{" if index > 0 && tokens[index - 1] == "::" => return false,
            "{" | ";" => return index == 0 || tokens[index - 1] != "::",
            "use" => return false,
            _ => {}
        }
    }
    true
}

/// Where a path begins: the absolute module that its first segments stand for.
fn base(module: &Module, inline: usize, tokens: &[&str], at: usize, modules: &BTreeSet<Module>) -> Option<Module> {
    let followed = tokens.get(at + 1) == Some(&"::");
    match tokens[at] {
        "crate" if followed => Some(Module::new()),
        "self" if followed => Some(module.clone()),
        "super" if followed => {
            let supers = supers(tokens, at).saturating_sub(inline);
            Some(module[..module.len().saturating_sub(supers)].to_vec())
        }
        name => {
            let child = [module.as_slice(), &[name.to_owned()]].concat();
            (followed && inline == 0 && modules.contains(&child)).then(|| module.clone())
        }
    }
}

fn supers(tokens: &[&str], at: usize) -> usize {
    (at..tokens.len())
        .step_by(2)
        .take_while(|index| tokens[*index] == "super" && tokens.get(index + 1) == Some(&"::"))
        .count()
}

/// How many tokens of the path its base takes up.
fn base_length(tokens: &[&str], at: usize) -> usize {
    match tokens[at] {
        "crate" | "self" => 2,
        "super" => 2 * supers(tokens, at),
        _ => 0,
    }
}

/// Reads a path or a whole `use` tree.
struct Tree<'a> {
    tokens: &'a [&'a str],
    at: usize,
    /// Each leaf with the name that it gets, if it is a name.
    found: Vec<(Module, Option<String>)>,
}

impl Tree<'_> {
    fn path(&mut self, prefix: &mut Module, skip: usize) {
        self.at += skip;
        loop {
            match self.tokens.get(self.at).copied() {
                Some("{") => return self.group(prefix),
                Some("*") => return self.leaf(prefix, None),
                Some("self") => return self.leaf(prefix, prefix.last().cloned()),
                Some(name) if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                    prefix.push(name.to_owned());
                    self.at += 1;
                    if self.tokens.get(self.at) != Some(&"::") {
                        let alias =
                            (self.tokens.get(self.at) == Some(&"as")).then(|| self.tokens.get(self.at + 1)).flatten();
                        if alias.is_some() {
                            self.at += 2;
                        }
                        self.found.push((prefix.clone(), Some((*alias.unwrap_or(&name)).to_owned())));
                        return;
                    }
                    self.at += 1;
                }
                // a turbofish or the like ends the path
                _ => return self.found.push((prefix.clone(), None)),
            }
        }
    }

    fn leaf(&mut self, prefix: &Module, name: Option<String>) {
        self.found.push((prefix.clone(), name));
        self.at += 1;
    }

    fn group(&mut self, prefix: &Module) {
        self.at += 1;
        while let Some(token) = self.tokens.get(self.at).copied() {
            match token {
                "}" => {
                    self.at += 1;
                    return;
                }
                "," => self.at += 1,
                _ => {
                    let before = self.at;
                    self.path(&mut prefix.clone(), 0);
                    // something that is no tree: step over it
                    self.at = self.at.max(before + 1);
                }
            }
        }
    }
}

mod checker {
    //! Each rule is broken once, so that a checker that sees nothing cannot pass.

    use super::check;

    fn violations(sources: &[(&str, &str)]) -> Vec<String> {
        let owned: Vec<_> = sources.iter().map(|(file, text)| ((*file).to_owned(), format!("//! x\n{text}"))).collect();
        check(&owned)
    }

    #[test]
    fn downward_imports_and_re_exports_are_fine() {
        let sources = [
            ("lib.rs", "pub mod kafka; pub mod lsn;"),
            ("lsn.rs", "pub struct Lsn;"),
            ("kafka/mod.rs", "mod error; mod topic; pub use error::Error; pub use topic::Admin;"),
            ("kafka/error.rs", "use crate::lsn::Lsn; pub struct Error;"),
            ("kafka/topic.rs", "use super::Error; use crate::lsn::Lsn; pub struct Admin;"),
            ("pipeline/mod.rs", "use crate::{kafka::{Admin, Error}, lsn::Lsn};"),
        ];
        assert_eq!(violations(&sources), [""; 0]);
    }

    #[test]
    fn an_import_from_a_layer_above_is_found_in_every_form() {
        let files = [("pipeline/mod.rs", "pub struct Ack;"), ("kafka/mod.rs", "mod topic;")];
        for code in [
            "use crate::pipeline::Ack;",
            "use crate::{lsn::Lsn, pipeline};",
            "use std::fmt; use crate::{event::{Op, Datum}, pipeline::{self as p}};",
            "fn f() { let x = crate::pipeline::Ack; }",
            "fn f() -> Option<crate::pipeline::Ack> { g(a, crate::pipeline::h::<u8>()) }",
            "use super::super::pipeline::Ack;",
            "#[cfg(test)]\nmod tests { use super::super::super::pipeline::Ack; }",
        ] {
            let found = violations(&[files[0], files[1], ("kafka/topic.rs", code)]);
            assert_eq!(found, ["kafka imports pipeline, from a layer above it"], "{code}");
        }
    }

    #[test]
    fn comments_and_texts_are_not_imports() {
        let code = r##"// use crate::pipeline::Ack;
            /* crate::pipeline::Ack */ const A: &str = "crate::pipeline::Ack\"crate::pipeline::B";
            const B: &str = r#"crate::pipeline::"Ack"#; const C: char = '"'; fn f<'a>(x: &'a str) { let q = '\''; }
            const D: &str = "crate::pipeline::Ack";"##;
        assert_eq!(violations(&[("pipeline/mod.rs", ""), ("kafka/mod.rs", code)]), [""; 0]);
    }

    #[test]
    fn an_adapter_that_imports_an_adapter_is_found() {
        let found = violations(&[("kafka/mod.rs", "use crate::source::Slot;"), ("source/mod.rs", "pub struct Slot;")]);
        assert_eq!(found, ["kafka imports source: both are adapters, which never import each other"]);
    }

    #[test]
    fn a_cycle_of_modules_is_found() {
        let found = violations(&[("lsn.rs", "use crate::event::Op;"), ("event.rs", "use crate::lsn::Lsn;")]);
        assert_eq!(found, ["module cycle: event -> lsn -> event", "file cycle: event -> lsn -> event"]);
    }

    #[test]
    fn a_cycle_inside_a_module_is_found() {
        let siblings = [
            ("kafka/mod.rs", "mod a; mod b; mod c;"),
            ("kafka/a.rs", "use super::b::B;"),
            ("kafka/b.rs", "use crate::kafka::c;"),
            ("kafka/c.rs", "fn f() { super::a::g() }"),
        ];
        assert_eq!(violations(&siblings), ["file cycle: kafka::a -> kafka::b -> kafka::c -> kafka::a"]);
        let parent = [("kafka/mod.rs", "mod a; fn f() { a::g() } pub struct S;"), ("kafka/a.rs", "use super::S;")];
        assert_eq!(violations(&parent), ["file cycle: kafka -> kafka::a -> kafka"]);
    }

    #[test]
    fn tests_may_close_a_cycle_but_not_leave_their_layer() {
        let sources = [
            ("kafka/mod.rs", "mod a; mod b;"),
            ("kafka/a.rs", "use super::b::B;"),
            ("kafka/b.rs", "pub struct B;\n#[cfg(test)]\nmod tests { use super::super::a::A; }"),
        ];
        assert_eq!(violations(&sources), [""; 0]);
    }

    #[test]
    fn a_module_without_a_layer_is_found() {
        assert_eq!(violations(&[("util/mod.rs", "")]), ["util: belongs to no layer"]);
    }

    #[test]
    fn input_and_output_below_the_clients_is_found() {
        assert_eq!(
            violations(&[("pgoutput/mod.rs", "use tokio::sync::mpsc;")]),
            ["pgoutput/mod.rs: names tokio, but its layer does no I/O"]
        );
    }

    #[test]
    fn files_without_documentation_or_of_unbearable_length_are_found() {
        let long = "\n".repeat(600);
        assert_eq!(
            violations(&[("main.rs", &long)]),
            [
                "main.rs: 601 lines before its tests, at most 600 are bearable",
                "main.rs: 601 lines, at most 99 are thin"
            ]
        );
        assert_eq!(violations(&[("lsn.rs", &format!("#[cfg(test)]\nmod tests {{{long}}}"))]), [""; 0]);
        let bare = [("lsn.rs".to_owned(), "pub struct Lsn;".to_owned())];
        assert_eq!(check(&bare), ["lsn.rs: does not open with //!"]);
    }
}
