//! Tests the source code against the rules of style that matter. There is no list of exceptions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

struct File {
    /// `server/connection`, as the layer picture names it.
    name: String,
    text: String,
}

impl File {
    /// Returns the text without its unit tests.
    fn product(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .zip(1..)
            .map(|(line, number)| (number, line))
    }
}

fn files_under(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                files.push(File {
                    name: name.to_string_lossy().into_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    assert!(!files.is_empty(), "no files under {folder}");
    files
}

/// Returns the layers of the picture in `lib.rs`: the layer of each file, and whether it is pure.
fn layers() -> BTreeMap<String, (u32, bool)> {
    let library = include_str!("../../src/lib.rs");
    let picture = library
        .split("```text\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut layers = BTreeMap::new();
    for line in picture.lines() {
        let mut words = line.trim_start_matches("//!").split_whitespace();
        let Some(layer) = words.next() else { continue };
        let layer = layer.parse().unwrap();
        for word in words {
            let name = word.trim_end_matches('*').to_string();
            let before = layers.insert(name, (layer, word.ends_with('*')));
            assert!(before.is_none(), "{word} is in the diagram twice");
        }
    }
    layers
}

/// Returns the files of the picture that a file imports from.
fn imports(file: &File, layers: &BTreeMap<String, (u32, bool)>) -> Vec<String> {
    let text: String = file.product().split_whitespace().collect();
    let mut imports = Vec::new();
    for import in text.split("usecrate::").skip(1) {
        let import = import.split(';').next().unwrap();
        let (stem, names) = import.split_once('{').unwrap_or((import, ""));
        let stem = stem.trim_end_matches("::").replace("::", "/");
        let names = names.trim_end_matches('}').split(',');
        let candidates = names.map(|name| {
            let name = name.split("::").next().unwrap_or_default();
            format!("{stem}/{name}").trim_matches('/').to_string()
        });
        imports.extend(candidates.map(|path| file_of(&path, layers)));
    }
    imports
}

/// Returns the file of a path: `load/plan/Stop` is in `load/plan`, `load/Load` in `load/mod`.
fn file_of(path: &str, layers: &BTreeMap<String, (u32, bool)>) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|part| *part != "self").collect();
    while !parts.is_empty() {
        for name in [parts.join("/"), parts.join("/") + "/mod"] {
            if layers.contains_key(&name) {
                return name;
            }
        }
        parts.pop();
    }
    panic!("{path} belongs to no file of the diagram");
}

#[test]
fn the_picture_shows_every_file_and_imports_point_down() {
    let layers = layers();
    let files = files_under("src");
    assert_eq!(
        files.len(),
        layers.len() + 1,
        "the diagram shows all files but lib.rs"
    );
    for file in files.iter().filter(|file| file.name != "lib") {
        let (layer, _) = layers
            .get(&file.name)
            .unwrap_or_else(|| panic!("{}", file.name));
        for import in imports(file, &layers) {
            let (imported, _) = layers[&import];
            assert!(
                imported < *layer,
                "{} ({layer}) imports {import} ({imported})",
                file.name
            );
        }
    }
}

#[test]
fn pure_files_have_no_clock_and_no_socket() {
    let layers = layers();
    for file in files_under("src") {
        if !layers.get(&file.name).is_some_and(|(_, pure)| *pure) {
            continue;
        }
        for word in [
            "Instant::now",
            ".elapsed()",
            "mio::",
            "socket2::",
            "std::fs",
            "TcpStream",
        ] {
            assert!(
                !file.product().contains(word),
                "{} is pure and has {word}",
                file.name
            );
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for file in files_under("src").iter().chain(&files_under("tests")) {
        assert!(file.text.starts_with("//! "), "{}", file.name);
    }
}

#[test]
fn lines_are_short_and_nothing_is_left_to_be_done() {
    let mut faults = Vec::new();
    for file in files_under("src").iter().chain(&files_under("tests")) {
        for (number, line) in file.lines() {
            if line.chars().count() > COLUMNS_MAX {
                faults.push(format!("{}, line {number}: too long", file.name));
            }
            for word in [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("XX", "X"),
            ] {
                if line.contains(word) {
                    faults.push(format!("{}, line {number}: {word}", file.name));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn functions_are_short() {
    let mut faults = Vec::new();
    for file in files_under("src").iter().chain(&files_under("tests")) {
        let mut open: Option<(usize, usize)> = None;
        for (number, line) in file.lines() {
            let indent = line.len() - line.trim_start().len();
            let words = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ");
            // A function of a trait may have no body.
            let begins = words.starts_with("fn ") || words.starts_with("const fn ");
            if open.is_none() && begins && !line.trim_end().ends_with(';') {
                open = Some((number, indent));
            }
            let ends = line.trim_end().ends_with('}')
                || line.trim_start().starts_with(')') && line.trim_end().ends_with(';');
            if let Some((start, at)) = open
                && indent == at
                && ends
            {
                let length = number - start + 1;
                if length > FUNCTION_LINES_MAX {
                    faults.push(format!("{}, line {start}: {length} lines", file.name));
                }
                open = None;
            }
        }
        assert_eq!(open, None, "{}: a function has no end", file.name);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_panics_on_purpose_outside_of_tests() {
    // `expect` is allowed for what the types cannot express; it must give its reason.
    for file in files_under("src") {
        for word in [
            ".unwrap()",
            "panic!(",
            "unreachable!(",
            "todo!(",
            "unimplemented!(",
        ] {
            assert!(!file.product().contains(word), "{}: {word}", file.name);
        }
    }
}

/// Phrases of `data/dialect.txt`, one a line: words and beginnings that a stranger does not
/// understand. A line that begins with `^` is the beginning of an item's documentation.
fn dialect() -> (Vec<String>, Vec<String>) {
    let phrases = include_str!("../data/dialect.txt").lines();
    let phrases = phrases.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (beginnings, phrases): (Vec<&str>, Vec<&str>) =
        phrases.partition(|line| line.starts_with('^'));
    let beginnings = beginnings.iter().map(|line| format!("{} ", &line[1..]));
    (
        beginnings.collect(),
        phrases.into_iter().map(str::to_string).collect(),
    )
}

/// Returns whether a line contains a phrase as whole words; words within names count as well.
fn contains(line: &str, phrase: &str) -> bool {
    let is_letter = |character: Option<char>| character.is_some_and(char::is_alphabetic);
    line.match_indices(phrase).any(|(start, found)| {
        let (before, after) = (&line[..start], &line[start + found.len()..]);
        !is_letter(before.chars().next_back()) && !is_letter(after.chars().next())
    })
}

#[test]
fn the_words_are_those_of_the_field() {
    let (beginnings, phrases) = dialect();
    let mut faults = Vec::new();
    let folders = ["src", "tests", "benches", "examples"];
    for file in folders.iter().flat_map(|folder| files_under(folder)) {
        let mut before = "";
        for (number, line) in file.lines() {
            let words = line.to_lowercase().replace('_', " ");
            for phrase in phrases.iter().filter(|phrase| contains(&words, phrase)) {
                faults.push(format!("{}, line {number}: {phrase}", file.name));
            }
            let text = line.trim_start().strip_prefix("/// ");
            let is_first = !before.trim_start().starts_with("///");
            if let Some(text) = text.filter(|_| is_first)
                && let Some(beginning) = beginnings.iter().find(|it| text.starts_with(*it))
            {
                faults.push(format!(
                    "{}, line {number}: begins with {beginning}",
                    file.name
                ));
            }
            before = line;
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
