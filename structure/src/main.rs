//! Prints the circles of imports between the subjects of a crate, and fails where there is one.
//!
//! A subject is a module at the top of a crate, with everything below it. One subject imports another when it names
//! something of it: in a `use`, in a path, or inside a macro. Two subjects that import each other, directly or through
//! others, make a circle: neither can be read, tested or moved without the other. Tests are left out.
//!
//! `structure FOLDER...` takes the `src` folders of crates.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

type ModulePath = Vec<String>;

fn main() -> anyhow::Result<ExitCode> {
    let folders: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    ensure!(!folders.is_empty(), "name the `src` folder of a crate");
    let mut found = 0;
    for folder in &folders {
        for circle in circles(&imports(folder)?) {
            found += 1;
            eprintln!("{}: a circle of imports", folder.display());
            for (from, to, example) in circle {
                eprintln!("  {from} imports {to}: {example}");
            }
        }
    }
    eprintln!("{found} circles of imports in {} crates", folders.len());
    Ok(if found == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Which subject imports which, each with one place where it does.
type Imports = BTreeMap<(String, String), String>;

fn imports(folder: &Path) -> anyhow::Result<Imports> {
    let mut modules = BTreeMap::new();
    for root in ["lib.rs", "main.rs"] {
        let file = folder.join(root);
        if file.exists() {
            read_module(&file, folder, Vec::new(), &mut modules)?;
        }
    }
    let mut imports = Imports::new();
    for (module, paths) in &modules {
        let Some(subject) = module.first() else {
            continue;
        };
        for path in paths {
            let Some(target) = absolute(module, path).and_then(|target| target.first().cloned()) else {
                continue;
            };
            if target != *subject && modules.contains_key(std::slice::from_ref(&target)) {
                let example = format!("{} names {}", module.join("::"), path.join("::"));
                imports.entry((subject.clone(), target)).or_insert(example);
            }
        }
    }
    Ok(imports)
}

/// Reads a file and those of its modules, and keeps the paths that each names.
fn read_module(
    file: &Path,
    children: &Path,
    module: ModulePath,
    modules: &mut BTreeMap<ModulePath, BTreeSet<ModulePath>>,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    let mut names = Names::default();
    names.visit_file(&parsed);
    modules.entry(module.clone()).or_default().extend(names.paths);
    for item in &parsed.items {
        let Item::Mod(child) = item else { continue };
        if child.content.is_some() || is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let folder = children.join(&name);
        let mut path = module.clone();
        path.push(name.clone());
        read_module(&children.join(format!("{name}.rs")), &folder, path, modules)?;
    }
    Ok(())
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.clone().into_iter().any(names_test))
    })
}

fn names_test(token: TokenTree) -> bool {
    match token {
        TokenTree::Ident(ident) => ident == "test",
        TokenTree::Group(group) => group.stream().into_iter().any(names_test),
        _ => false,
    }
}

/// The paths that begin with `crate`, `self` or `super`.
#[derive(Default)]
struct Names {
    paths: BTreeSet<ModulePath>,
}

impl Names {
    fn add(&mut self, path: ModulePath) {
        if matches!(path.first().map(String::as_str), Some("crate" | "self" | "super")) {
            self.paths.insert(path);
        }
    }

    fn add_use(&mut self, tree: &UseTree, mut before: ModulePath) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(&path.tree, before);
            }
            UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.add(before);
            }
            UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.add(before);
            }
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, before.clone());
                }
            }
        }
    }

    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = ModulePath::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                other => {
                    self.add_path_of_tokens(&mut path);
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.add_path_of_tokens(&mut path);
    }

    /// What stands before the path, such as `mut`, is not of it.
    fn add_path_of_tokens(&mut self, path: &mut ModulePath) {
        if let Some(begin) = path.iter().position(|name| name == "crate") {
            self.add(path.split_off(begin));
        }
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(
            path.segments
                .iter()
                .map(|segment| segment.ident.to_string())
                .collect(),
        );
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// A path as it is from the top of the crate.
fn absolute(module: &[String], path: &[String]) -> Option<ModulePath> {
    let mut base = module.to_vec();
    let mut rest = path.iter().peekable();
    match rest.next()?.as_str() {
        "crate" => base.clear(),
        "super" => {
            base.pop()?;
            while rest.next_if(|name| *name == "super").is_some() {
                base.pop()?;
            }
        }
        _ => {}
    }
    base.extend(rest.cloned());
    Some(base)
}

/// The circles, each as the imports that make it.
fn circles(imports: &Imports) -> Vec<Vec<(&str, &str, &str)>> {
    let subjects: BTreeSet<&str> = imports.keys().map(|(from, _)| from.as_str()).collect();
    let reached: BTreeMap<&str, BTreeSet<&str>> = subjects
        .iter()
        .map(|subject| (*subject, reached_from(subject, imports)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for subject in &subjects {
        if !reached[subject].contains(subject) || seen.contains(subject) {
            continue;
        }
        let circle: BTreeSet<&str> = reached[subject]
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(subject)))
            .collect();
        let within = imports
            .iter()
            .filter(|((from, to), _)| circle.contains(from.as_str()) && circle.contains(to.as_str()))
            .map(|((from, to), example)| (from.as_str(), to.as_str(), example.as_str()));
        circles.push(within.collect());
        seen.extend(circle);
    }
    circles
}

fn reached_from<'i>(subject: &str, imports: &'i Imports) -> BTreeSet<&'i str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![subject];
    while let Some(from) = next.pop() {
        for (importer, imported) in imports.keys() {
            if importer == from && reached.insert(imported.as_str()) {
                next.push(imported);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = crate_of(files);
        let imports = imports(folder.path()).unwrap();
        let arrows = |circle: Vec<(&str, &str, &str)>| {
            let arrows = circle.iter().map(|(from, to, _)| format!("{from}>{to}"));
            arrows.collect::<Vec<_>>().join(" ")
        };
        circles(&imports).into_iter().map(arrows).collect()
    }

    #[test]
    fn a_circle_is_found_however_it_is_made() {
        let by_use = ("one.rs", "use crate::{two::{self, X}, other};");
        let by_path = ("two.rs", "mod below; fn f() -> super::three::T { todo!() }");
        let below = ("two/below.rs", "");
        let by_macro = ("three.rs", "fn f() { assert!(crate::one::is()); }");
        let root = ("lib.rs", "mod one; mod two; mod three; mod other;");
        let found = circles_of(&[root, by_use, by_path, below, by_macro, ("other.rs", "")]);
        assert_eq!(found, ["one>two three>one two>three"].map(sorted));
    }

    #[test]
    fn below_a_subject_and_in_tests_everything_may_be_imported() {
        let root = ("lib.rs", "mod one; mod two; pub use one::A;");
        let one = (
            "one.rs",
            "mod below; use self::below::B; use crate::two; \
             #[cfg(test)] mod tests { use crate::two; }",
        );
        let below = ("one/below.rs", "use super::A; use crate::one;");
        let two = ("two.rs", "#[cfg(test)] mod tests; #[cfg(test)] use crate::one;");
        assert_eq!(circles_of(&[root, one, below, two]), [""; 0]);
    }

    fn sorted(arrows: &str) -> String {
        let mut arrows: Vec<_> = arrows.split(' ').collect();
        arrows.sort_unstable();
        arrows.join(" ")
    }
}
