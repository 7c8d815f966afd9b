//! The shipped files of nginx themselves: nginx accepts them, and the two for the front say the same.

use std::collections::BTreeSet;

use super::{free, nginx_file, program, root};

#[test]
fn nginx_accepts_each_shipped_file() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root().join("nginx")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let files = tempfile::tempdir().unwrap();
        let text = nginx_file(&name, free(), free(), files.path());
        let file = files.path().join("nginx.conf");
        std::fs::write(&file, format!("pid {}/pid;\n{text}", files.path().display())).unwrap();
        let output =
            program("nginx").args(["-t", "-e", "stderr", "-p"]).arg(files.path()).arg("-c").arg(&file).output();
        let output = output.unwrap_or_else(|error| panic!("nginx: {error}; `make setup` installs it"));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert_eq!(checked, 3);
}

/// The directives of a file, without comments and spacing.
fn directives(name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("nginx").join(name)).unwrap();
    let code = text.lines().map(|line| line.split('#').next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let parts = code.split_inclusive([';', '{', '}']);
    parts.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|part| part != "}").collect()
}

#[test]
fn the_file_with_tls_is_the_file_without_it_and_tls() {
    let (plain, tls) = (directives("front.conf"), directives("front-tls.conf"));
    assert!(plain.len() > 30, "{plain:?}");
    let only_plain: Vec<&str> = plain.difference(&tls).map(String::as_str).collect();
    assert_eq!(only_plain, ["listen 8080 reuseport backlog=4096 so_keepalive=1m:20s:3;"]);
    let only_tls: Vec<&str> = tls.difference(&plain).map(String::as_str).collect();
    for directive in &only_tls {
        let known = ["ssl_", "listen ", "server_name ", "http2_", "return 308 "];
        assert!(known.iter().any(|begin| directive.starts_with(begin)), "{directive} is in front-tls.conf only");
    }
}

/// The `nginx` code blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    text.split("```nginx\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// Where a block may stand: a whole file, in `http`, in `server`, in `location`. A `map` beside a location goes into `http`.
fn placed(block: &str) -> [String; 4] {
    let (maps, rest): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| line.starts_with("map "));
    let (maps, rest) = (maps.join("\n"), rest.join("\n"));
    let events = if block.contains("events {") { "" } else { "events {}" };
    [
        format!("{events}\n{block}"),
        format!("events {{}}\nhttp {{\n{block}\n}}"),
        format!("events {{}}\nhttp {{\n{maps}\nserver {{\n{rest}\n}}\n}}"),
        format!("events {{}}\nhttp {{ server {{ location / {{\n{block}\n}} }} }}"),
    ]
}

#[test]
fn nginx_accepts_each_block_of_the_documentation() {
    let files = tempfile::tempdir().unwrap();
    super::certificate(files.path());
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let mut checked = 0;
    for page in ["README.md", "docs/behind-nginx.md", "docs/recipes.md", "docs/in-front.md", "docs/quick-start.md"] {
        for block in blocks(page) {
            let block = block
                .replace("/etc/nginx/tls/fullchain.pem", &cert.display().to_string())
                .replace("/etc/nginx/tls/privkey.pem", &key.display().to_string())
                .replace("listen 443", &format!("listen {}", free()));
            let mut refusals = String::new();
            let accepted = placed(&block).iter().any(|text| {
                let file = files.path().join("nginx.conf");
                std::fs::write(&file, format!("pid {}/pid;\n{text}", files.path().display())).unwrap();
                let mut command = program("nginx");
                command.args(["-t", "-e", "stderr", "-p"]).arg(files.path()).arg("-c").arg(&file);
                let output =
                    command.output().unwrap_or_else(|error| panic!("nginx: {error}; `make setup` installs it"));
                refusals += &String::from_utf8_lossy(&output.stderr);
                output.status.success()
            });
            assert!(accepted, "{page}:\n{block}\n{refusals}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} blocks found");
}
