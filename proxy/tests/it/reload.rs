//! Reloads of the configuration: triggers, refusals, listeners, certificates, files.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::support::{
    Backend, CHUNKED, Certificate, Client, DEADLINE, Proxy, UNTIL_CLOSE, chunk, eventually, free_address,
};

/// A backend whose streams send one event, and another when the test lets them. Everything else is a page.
fn backend_on_demand() -> Backend {
    Backend::start(|mut connection| {
        if connection.path() == "/" || connection.path() == "*" {
            return connection.answer("text/plain", "a page");
        }
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.wait_for_test();
        connection.send(chunk(b"data: b\n\n"));
        connection.send("0\r\n\r\n");
    })
}

/// A stream that has been requested, once its first event is there.
fn begun(mut stream: Client) -> Client {
    assert_eq!(stream.read_head().status, 200);
    stream.read_until_body_has("data: a\n\n");
    stream
}

fn page_backend() -> Backend {
    Backend::start(|mut connection| connection.answer("text/plain", "a page"))
}

fn upstreams(backend: &Backend) -> String {
    format!("upstreams: {{app: {{servers: ['{}']}}}}\n", backend.address)
}

/// The status of a page; none if the address refuses.
fn status(address: SocketAddr) -> Option<u16> {
    let mut client = Client::over(TcpStream::connect(address).ok()?);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    Some(client.read_head().status)
}

fn sse_proxy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_sse-proxy");
    let output = Command::new(program).args(arguments).env_remove("SSE_PROXY_CONFIG").output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), stdout, stderr)
}

#[test]
fn a_file_that_cannot_be_brought_into_force_changes_nothing_and_says_why() {
    let backend = backend_on_demand();
    let proxy = Proxy::start_with(&format!("threads: 1\npid_file: {}\n{}", free_path().display(), upstreams(&backend)));
    let good = std::fs::read_to_string(proxy.file()).unwrap();
    let mut stream = begun(proxy.stream("/events"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = TcpListener::bind(taken).unwrap();
    let threads = |with: &str| good.replace("threads: 1\n", with);
    let listen = |more: &str| good.replace("listen: [", &format!("listen: [{more}, "));
    let cases = [
        ("not: [yaml".to_owned(), 422, "sse-proxy.yaml:1: "),
        (good.replace("servers", "server"), 422, "did you mean `servers`?"),
        (
            threads("threads: 2\n"),
            422,
            "sse-proxy.yaml:4: threads is `2`, and the process runs with `1`, which a reload cannot",
        ),
        (good.replace("driver: parked", "driver: task"), 422, "driver is task"),
        (good.replace("admin: {address: 127.0.0.1:0}", "admin: {address: 127.0.0.1:1}"), 422, "admin is `127.0.0.1:1`"),
        (good.replace("pid_file: ", "pid_file: /tmp"), 422, "pid_file is `/tmp/"),
        (good.replace("127.0.0.1:0}]", "127.0.0.1:0, reuse_port: true}]"), 422, "listen[0].reuse_port is true"),
        (listen(&format!("{{address: '{taken}'}}")), 500, "Address already in use"),
        (
            listen("{address: 127.0.0.1:0, tls: {cert: /no/cert.pem, key: /no/key.pem}}"),
            422,
            "listen[0].tls.cert is `/no/cert.pem`",
        ),
        (format!("{good}access_log: /no/such/folder/access.log\n"), 422, "there is no folder"),
        // The address of the one listener that goes.
        (
            good.replace("127.0.0.1:0}]", &format!("0.0.0.0:{}}}]\ntrusted_proxies: []", proxy.address.port())),
            500,
            "remove it with one reload and add the other with the next",
        ),
    ];
    let descriptors = proxy.descriptors();
    for (at, (text, status, wanted)) in (1..).zip(&cases) {
        assert_ne!(*text, good);
        std::fs::write(proxy.file(), text).unwrap();
        let answer = proxy.post_reload("");
        assert_eq!(answer.0, *status, "{wanted}: {}", answer.1);
        assert!(
            answer.1.starts_with("not reloaded, and nothing has changed: ") && answer.1.contains(wanted),
            "{wanted}: {}",
            answer.1
        );
        let count = f64::from(at);
        assert_eq!(proxy.metric("sse_proxy_reloads_total{outcome=\"failure\"}"), Some(count));
        assert_eq!(proxy.metric("sse_proxy_config_last_reload_successful"), Some(0.0));
        eventually("the log", || proxy.stderr().contains("configuration not reloaded").then_some(()));
    }
    assert!(!proxy.hang_up(), "SIGHUP does the same");
    eventually("nothing is left of them", || (proxy.descriptors() <= descriptors).then_some(()));
    assert_eq!(proxy.metric("sse_proxy_reloads_total{outcome=\"success\"}"), Some(0.0));
    // What ran goes on.
    let mut other = begun(proxy.stream("/events"));
    backend.proceed(2);
    stream.read_until_body_has("data: b\n\n");
    other.read_until_body_has("data: b\n\n");
    std::fs::write(proxy.file(), &good).unwrap();
    assert_eq!(proxy.reload(), "reloaded\nnothing has changed\n");
    assert_eq!(proxy.metric("sse_proxy_config_last_reload_successful"), Some(1.0));
    let seconds = proxy.metric("sse_proxy_config_last_reload_seconds").unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 120.0..now + 1.0).contains(&seconds), "{seconds} at {now}");
}

/// A path that no other test has.
fn free_path() -> std::path::PathBuf {
    tempfile::NamedTempFile::new().unwrap().path().to_owned()
}

#[test]
fn the_subcommand_finds_the_process_and_reports_the_outcome() {
    let backend = page_backend();
    let pid_file = free_path();
    let pid_path = pid_file.to_str().unwrap();
    let mut proxy = Proxy::start_with(&format!("pid_file: {pid_path}\n{}", upstreams(&backend)));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", proxy.pid()));
    let (file, admin) = (proxy.file(), proxy.admin.to_string());
    // A file that names what the process runs with: the admin listener has taken a free port.
    let beside = proxy.path("beside.yaml");
    std::fs::write(&beside, format!("admin: {{address: '{admin}'}}\n{}", upstreams(&backend))).unwrap();
    let by_pid_file = proxy.path("pid.yaml");
    std::fs::write(&by_pid_file, format!("pid_file: {pid_path}\n{}", upstreams(&backend))).unwrap();
    let neither = proxy.path("neither.yaml");
    std::fs::write(&neither, upstreams(&backend)).unwrap();
    let [beside, by_pid_file, neither] =
        [&beside, &by_pid_file, &neither].map(|path| path.to_str().unwrap().to_owned());

    proxy.edit("upstreams: {app:", "routes: [{upstream: app, name: renamed}]\nupstreams: {app:");
    let (code, stdout, stderr) = sse_proxy(&["reload", "--admin", &admin]);
    assert_eq!((code, &*stdout), (Some(0), "reloaded\nroutes: added renamed; removed /\n"), "{stderr}");
    for arguments in [["--admin", &format!("http://{admin}/")], ["--config", &beside]] {
        let (code, stdout, stderr) = sse_proxy(&["reload", arguments[0], arguments[1]]);
        assert_eq!((code, &*stdout), (Some(0), "reloaded\nnothing has changed\n"), "{arguments:?}: {stderr}");
    }
    for arguments in [["--pid-file", pid_path], ["--config", &by_pid_file]] {
        let before = proxy.metric("sse_proxy_reloads_total{outcome=\"success\"}").unwrap();
        let (code, stdout, stderr) = sse_proxy(&["reload", arguments[0], arguments[1]]);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        assert!(stdout.starts_with(&format!("SIGHUP sent to process {}", proxy.pid())), "{stdout}");
        let reloaded =
            || (proxy.metric("sse_proxy_reloads_total{outcome=\"success\"}").unwrap() > before).then_some(());
        eventually("the reload", reloaded);
    }
    std::fs::write(&file, "upstreams: {}\n").unwrap();
    let fails = |arguments: &[&str], wanted: &str| {
        let (code, stdout, stderr) = sse_proxy(&[&["reload"], arguments].concat());
        assert_eq!((code, &*stdout), (Some(1), ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("sse-proxy: ") && stderr.contains(wanted), "{arguments:?}: {stderr}");
    };
    fails(&["--admin", &admin], "sse-proxy.yaml:1: upstreams is empty; name at least one upstream");
    fails(&["--admin", &proxy.address.to_string()], "unexpected response");
    fails(&["--admin", &free_address("127.83.70.1").to_string()], "Connection refused");
    fails(&["--admin", "9090"], "`9090` is not the address of an admin listener; write host:port");
    fails(&["--config", &neither], "neither.yaml: has neither admin nor pid_file; add one of them");
    fails(&["--config", file.to_str().unwrap()], "sse-proxy.yaml:1: upstreams is empty");
    fails(&["--pid-file", "/no/such.pid"], "No such file");
    assert_eq!(sse_proxy(&["reload"]).0, Some(64));
    assert_eq!(sse_proxy(&["reload", "--admin", &admin, "--pid-file", pid_path]).0, Some(64));

    // A second process with the same file, which the first one holds.
    let (code, _, stderr) = sse_proxy(&["--config", &by_pid_file]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("process {} runs and holds it", proxy.pid())), "{stderr}");
    proxy.terminate();
    assert_eq!(proxy.exited().code(), Some(0));
    assert!(!pid_file.exists(), "removed at the exit");
    // A process that runs and is not sse-proxy.
    std::fs::write(&pid_file, std::process::id().to_string()).unwrap();
    fails(&["--pid-file", pid_path], "no sse-proxy holds it");
    std::fs::remove_file(&pid_file).unwrap();
}

#[test]
fn a_reload_over_http_is_refused_to_browsers_of_other_sites_and_to_other_methods() {
    let backend = page_backend();
    let proxy = Proxy::start(backend.address, "");
    let refused = [
        ("Origin: https://evil.example\r\n", "a page of another site"),
        ("Sec-Fetch-Site: cross-site\r\n", "a page of another site"),
    ];
    for (fields, wanted) in refused {
        let (status, text) = proxy.post_reload(fields);
        assert_eq!(status, 403, "{fields}: {text}");
        assert!(text.contains(wanted), "{fields}: {text}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(proxy.admin_request(&format!("{method} /reload"), "").0, 405, "{method}");
    }
    assert_eq!(proxy.metric("sse_proxy_reloads_total{outcome=\"success\"}"), Some(0.0), "none of them has reloaded");
    proxy.reload();
}

#[test]
fn without_a_file_a_reload_says_that_there_is_none() {
    let (address, admin) = (free_address("127.83.70.1"), free_address("127.83.70.1"));
    let (listen, admin_address) = (address.to_string(), admin.to_string());
    let mut child = Command::new(env!("CARGO_BIN_EXE_sse-proxy"))
        .args(["--upstream", "127.0.0.1:1", "--listen", &listen, "--admin", &admin_address])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("it listens", || TcpStream::connect(admin).ok());
    let (code, _, stderr) = sse_proxy(&["reload", "--admin", &admin_address]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("there is no file to read again: start sse-proxy with --config"), "{stderr}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn listeners_are_added_changed_and_removed_while_their_connections_go_on() {
    let backend = backend_on_demand();
    let certificate = Certificate::new();
    for driver in ["parked", "task"] {
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &upstreams(&backend));
        let [plain, secure] = [free_address("127.83.70.1"), free_address("127.83.70.1")];
        let first = "listen: [{address: 127.0.0.1:0}]";
        let three = format!(
            "listen: [{{address: 127.0.0.1:0}}, {{address: '{plain}'}}, {{address: '{secure}', tls: {}}}]",
            certificate.yaml()
        );
        proxy.edit(first, &three);
        let changes = proxy.reload();
        assert!(changes.contains(&format!("listen: added {plain} (http)\n")), "{changes}");
        assert!(changes.contains(&format!("listen: added {secure} (https, HTTP/2 and HTTP/1.1)\n")), "{changes}");

        let mut streams = vec![Client::connect(plain), Client::connect_tls(secure), proxy.connect()];
        for stream in &mut streams {
            stream.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
            assert_eq!(stream.read_head().status, 200);
            stream.read_until_body_has("data: a\n\n");
        }
        // The protocols of a listener change, and its socket stays: nobody is refused meanwhile.
        let swapped = format!(
            "listen: [{{address: 127.0.0.1:0}}, {{address: '{plain}', tls: {}}}, {{address: '{secure}', h2c: true}}]",
            certificate.yaml()
        );
        proxy.edit(&three, &swapped);
        let changes = proxy.reload();
        assert!(changes.contains(&format!("listen: changed {plain} to https")), "{changes}");
        assert!(changes.contains(&format!("listen: changed {secure} to http, HTTP/2")), "{changes}");
        Client::connect_tls(plain).handshake();
        let mut page = Client::connect(secure);
        page.send("OPTIONS * HTTP/1.0\r\n\r\n");
        page.read_until(|bytes| bytes.starts_with(b"HTTP/1."));

        proxy.edit(&swapped, first);
        let changes = proxy.reload();
        assert!(changes.contains(&format!("listen: removed {plain}\n")), "{changes}");
        assert!(changes.contains(&format!("listen: removed {secure}\n")), "{changes}");
        for address in [plain, secure] {
            assert!(TcpStream::connect(address).is_err(), "{driver}: {address} is closed");
            // Free for others, at once.
            drop(TcpListener::bind(address).unwrap());
        }
        backend.proceed(4);
        for mut stream in streams {
            stream.read_until_body_has("data: b\n\n");
        }
        proxy.edit("listen: [", &format!("listen: [{{address: '{plain}'}}, "));
        proxy.reload();
        assert_eq!(status(plain), Some(200), "{driver}: the address is accepted from again");
        drop(page);
    }
}

/// Connections that are queued when their listener closes are served.
#[test]
fn no_connection_is_lost_while_a_listener_changes() {
    let backend = page_backend();
    for driver in ["parked", "task"] {
        let proxy = Proxy::start_on(driver, &[], "{address: 127.0.0.1:0}", &upstreams(&backend));
        let (address, done) = (proxy.address, std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut served = 0;
                        while !done.load(std::sync::atomic::Ordering::Relaxed) {
                            assert_eq!(status(address), Some(200));
                            served += 1;
                        }
                        served
                    })
                })
                .collect();
            for at in 0..20 {
                let (from, to) = ("{address: 127.0.0.1:0}]", "{address: 127.0.0.1:0, h2c: true}]");
                let (from, to) = if at % 2 == 0 { (from, to) } else { (to, from) };
                proxy.edit(&format!("listen: [{from}"), &format!("listen: [{to}"));
                assert!(proxy.reload().contains("listen: changed"));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for client in clients {
                assert!(client.join().unwrap() > 0, "{driver}");
            }
        });
    }
}

/// A folder with a certificate and its key, which a symlink names, as Kubernetes mounts a secret.
fn link_to(folder: &Path, name: &str) -> Vec<u8> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::create_dir(folder.join(name)).unwrap();
    std::fs::write(folder.join(name).join("tls.crt"), certified.cert.pem()).unwrap();
    std::fs::write(folder.join(name).join("tls.key"), certified.signing_key.serialize_pem()).unwrap();
    let (new, current) = (folder.join("new"), folder.join("current"));
    std::os::unix::fs::symlink(name, &new).unwrap();
    std::fs::rename(new, current).unwrap();
    certified.cert.der().to_vec()
}

#[test]
fn a_certificate_is_replaced_by_symlink_while_connections_are_open() {
    let backend = backend_on_demand();
    for watched in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let first = link_to(folder.path(), "first");
        let current = folder.path().join("current");
        let reload = if watched { ", reload: 1s" } else { "" };
        let tls = format!("{{cert: '{0}/tls.crt', key: '{0}/tls.key'{reload}}}", current.display());
        let proxy = Proxy::start_listening(&format!("{{address: 127.0.0.1:0, tls: {tls}}}"), &upstreams(&backend));
        let mut stream = proxy.connect_tls();
        stream.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
        assert_eq!(stream.read_head().status, 200);
        stream.read_until_body_has("data: a\n\n");
        assert_eq!(stream.certificate(), first);
        let second = link_to(folder.path(), "second");
        if !watched {
            assert_eq!(proxy.connect_tls().certificate(), first, "nobody looks at the files");
            assert!(proxy.reload().contains("listen: certificate of "));
            assert_eq!(proxy.connect_tls().certificate(), second);
        }
        eventually("the second certificate", || (proxy.connect_tls().certificate() == second).then_some(()));
        if watched {
            // Half of a pair: the former certificate is served, and one line says so.
            let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(current.join("tls.crt"), other.cert.pem()).unwrap();
            let warned = || proxy.stderr().contains("certificate not replaced").then_some(());
            eventually("the warning", warned);
            assert!(proxy.stderr().contains("tls.key is `") && proxy.stderr().contains("which is not the key of"));
            assert_eq!(proxy.connect_tls().certificate(), second);
            std::fs::write(current.join("tls.key"), other.signing_key.serialize_pem()).unwrap();
            let der = other.cert.der().to_vec();
            eventually("the third certificate", || (proxy.connect_tls().certificate() == der).then_some(()));
            assert_eq!(proxy.stderr().matches("certificate not replaced").count(), 1, "once for each content");
        }
        backend.proceed(1);
        stream.read_until_body_has("data: b\n\n");
        assert!(stream.certificate() == first, "the connection is the same");
    }
}

#[test]
fn the_access_log_is_reopened_turned_off_and_on() {
    let backend = Backend::answering(vec![UNTIL_CLOSE.into(), b"data: a\n\n".to_vec()]);
    let folder = tempfile::tempdir().unwrap();
    let [log, rotated, other] = ["access.log", "access.log.1", "other.log"].map(|name| folder.path().join(name));
    let proxy = Proxy::start_with(&format!("access_log: {}\n{}", log.display(), upstreams(&backend)));
    let has = |path: &Path, text: &str| std::fs::read_to_string(path).is_ok_and(|log| log.contains(text));
    let ended = |path: &str| drop(proxy.stream(path).read_to_end().unwrap());
    ended("/one");
    eventually("the first line", || has(&log, "/one").then_some(()));
    std::fs::rename(&log, &rotated).unwrap();
    assert_eq!(proxy.reload(), "reloaded\nnothing has changed\n", "as logrotate wants it");
    ended("/two");
    eventually("a line in the new file", || has(&log, "/two").then_some(()));
    assert!(!has(&rotated, "/two"));
    let open = || {
        let links = std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        let links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        links.filter(|link| link.starts_with(folder.path())).collect::<Vec<_>>()
    };
    assert_eq!(open(), std::slice::from_ref(&log), "the rotated file is closed");

    proxy.edit(&format!("access_log: {}", log.display()), "access_log: off");
    assert_eq!(proxy.reload(), "reloaded\naccess_log: changed\n");
    ended("/three");
    proxy.edit("access_log: off", &format!("access_log: {}", other.display()));
    proxy.reload();
    ended("/four");
    eventually("a line in the other file", || has(&other, "/four").then_some(()));
    assert!(![&log, &rotated, &other].into_iter().any(|path| has(path, "/three")));

    proxy.edit(&format!("access_log: {}", other.display()), "access_log: /dev/full");
    proxy.reload();
    std::fs::remove_dir_all(folder.path()).unwrap();
    proxy.edit("access_log: /dev/full", &format!("access_log: {}", other.display()));
    assert_eq!(proxy.post_reload("").0, 422, "the folder is gone");
}

/// Each of `upstreams` and routes goes and comes back, and streams run on.
#[test]
fn counts_of_upstreams_and_routes_survive() {
    let backend = backend_on_demand();
    let proxy = Proxy::start_with(&format!(
        "upstreams: {{app: {{servers: ['{0}']}}, other: {{servers: ['127.0.0.1:1']}}}}\nroutes: [{{match: {{path_prefix: \
         /a}}, upstream: app}}, {{upstream: other}}]\n",
        backend.address
    ));
    let mut stream = begun(proxy.stream("/a"));
    let active = format!("sse_proxy_upstream_streams_active{{upstream=\"app\",address=\"{}\"}}", backend.address);
    let route = "sse_proxy_streams_active{route=\"/a\"}";
    assert_eq!((proxy.metric(&active), proxy.metric(route)), (Some(1.0), Some(1.0)));
    let with = std::fs::read_to_string(proxy.file()).unwrap();
    let without = with
        .replace(&format!("app: {{servers: ['{}']}}, ", backend.address), "")
        .replace("{match: {path_prefix: /a}, upstream: app}, ", "");
    let moved = with.replace(&format!("['{}']", backend.address), &format!("['127.0.0.1:2', '{}']", backend.address));
    for text in [&without, &with, &moved, &without, &moved, &with] {
        std::fs::write(proxy.file(), text).unwrap();
        proxy.reload();
        assert_eq!((proxy.metric(&active), proxy.metric(route)), (Some(1.0), Some(1.0)), "{text}");
        assert_eq!(proxy.metric("sse_proxy_streams_opened_total{route=\"/a\"}"), Some(1.0), "{text}");
    }
    std::fs::write(proxy.file(), &without).unwrap();
    proxy.reload();
    backend.proceed(1);
    stream.read_until_body_has("data: b\n\n");
    eventually("its upstream is gone", || proxy.metric(&active).is_none().then_some(()));
    assert_eq!(proxy.metric("sse_proxy_streams_ended_total{route=\"/a\",reason=\"upstream_end\"}"), Some(1.0));
}

/// The bounded part of `scripts/reload-soak`.
#[test]
fn many_reloads_leak_neither_descriptors_nor_threads_nor_memory() {
    let backend = backend_on_demand();
    let certificate = Certificate::new();
    let plain = free_address("127.83.70.1");
    let listener = format!("{{address: 127.0.0.1:0, tls: {}}}, {{address: '{plain}'}}", certificate.yaml());
    let proxy = Proxy::start_listening(&listener, &upstreams(&backend));
    let mut streams: Vec<Client> = (0..20)
        .map(|at| {
            let mut stream = if at % 2 == 0 { proxy.connect_tls() } else { Client::connect(plain) };
            stream.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
            assert_eq!(stream.read_head().status, 200);
            stream.read_until_body_has("data: a\n\n");
            stream
        })
        .collect();
    let one = std::fs::read_to_string(proxy.file()).unwrap();
    let extra = free_address("127.83.70.1");
    // Every kind of change, in both directions: a listener, its protocol, a route, an upstream.
    let two = one.replace(
        &format!("{{address: '{plain}'}}"),
        &format!("{{address: '{plain}', h2c: true}}, {{address: '{extra}'}}"),
    ) + "routes: [{upstream: app, name: again, heartbeat: {interval: 7s}}]\nclient: {limits: {fields: 40}}\n";
    let two = two.replace("['", "['127.0.0.1:1', '");
    let threads = || std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().count();
    let reload_twice = || {
        for text in [&two, &one] {
            std::fs::write(proxy.file(), text).unwrap();
            proxy.reload();
        }
    };
    (0..5).for_each(|_| reload_twice());
    let (descriptors, threads_before, memory) = (proxy.descriptors(), threads(), proxy.settled_memory());
    (0..25).for_each(|_| reload_twice());
    eventually("the descriptors", || (proxy.descriptors() <= descriptors).then_some(()));
    // The runtime keeps threads for blocking work for a while, and adds some if several reloads follow each other.
    assert!(threads() <= threads_before + 4, "{} threads, {threads_before} before", threads());
    let grown = proxy.settled_memory().saturating_sub(memory);
    assert!(grown < 2 << 20, "{grown} bytes after 50 reloads");
    backend.proceed(20);
    for stream in &mut streams {
        stream.read_until_body_has("data: b\n\n");
    }
}

/// What the process sends to its service manager.
struct Manager {
    socket: UnixDatagram,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        (Self { socket, _folder: folder }, path.to_str().unwrap().to_owned())
    }

    /// The next message that is neither a status nor the watchdog's.
    fn next(&self) -> String {
        loop {
            let message = self.any();
            if !message.starts_with("STATUS=") && message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn any(&self) -> String {
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    fn until(&self, wanted: &str) {
        while self.any() != wanted {}
    }
}

#[test]
fn systemd_is_told_about_start_reload_status_watchdog_and_stop() {
    let backend = backend_on_demand();
    let (manager, path) = Manager::new();
    let environment = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "200000")];
    let mut proxy = Proxy::start_in(&environment, "{address: 127.0.0.1:0}", &upstreams(&backend));
    assert_eq!(manager.next(), "READY=1\n");
    let mut stream = begun(proxy.stream("/events"));
    manager.until("STATUS=1 stream\n");
    manager.until("WATCHDOG=1\n");
    let reloading = |manager: &Manager| {
        let message = manager.next();
        let (_, now) = message.split_once("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{message}"));
        assert!(now.trim().parse::<u64>().is_ok_and(|now| now > 0), "{message}");
    };
    proxy.signal("HUP");
    reloading(&manager);
    assert_eq!(manager.next(), "READY=1\n");
    let good = std::fs::read_to_string(proxy.file()).unwrap();
    std::fs::write(proxy.file(), "upstreams: {}\n").unwrap();
    proxy.signal("HUP");
    reloading(&manager);
    assert_eq!(manager.next(), "READY=1\n", "the process goes on");
    let status = eventually("the status", || Some(manager.any()).filter(|message| message.contains("not reloaded: ")));
    assert!(status.starts_with("STATUS=1 stream; not reloaded: ") && status.contains("upstreams is empty"), "{status}");
    std::fs::write(proxy.file(), good).unwrap();
    assert!(proxy.hang_up());
    reloading(&manager);
    assert_eq!(manager.next(), "READY=1\n");
    proxy.terminate();
    assert_eq!(manager.next(), "STOPPING=1\n");
    backend.proceed(1);
    let mut rest = Vec::new();
    let _ = stream.socket.read_to_end(&mut rest);
    assert_eq!(proxy.exited().code(), Some(0));
}

/// A listener that a reload has added drains like the others.
#[test]
fn a_drain_reaches_what_reloads_have_added() {
    let backend = Backend::start(|mut connection| {
        connection.send(CHUNKED);
        connection.send(chunk(b"data: a\n\n"));
        connection.hang();
    });
    let certificate = Certificate::new();
    let mut proxy = Proxy::start_with(&upstreams(&backend));
    let [plain, secure] = [free_address("127.83.70.1"), free_address("127.83.70.1")];
    proxy.edit(
        "listen: [",
        &format!(
            "drain: {{timeout: 1m}}\nlisten: [{{address: '{plain}'}}, {{address: '{secure}', tls: {}}}, ",
            certificate.yaml()
        ),
    );
    proxy.reload();
    let mut streams = [Client::connect(plain), Client::connect_tls(secure)];
    for stream in &mut streams {
        stream.send("GET /events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
        assert_eq!(stream.read_head().status, 200);
        stream.read_until_body_has("data: a\n\n");
    }
    proxy.terminate();
    for stream in &mut streams {
        let end = stream.read_to_end().unwrap();
        assert!(end.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&end));
    }
    assert_eq!(proxy.exited().code(), Some(0));
    for address in [plain, secure] {
        assert!(TcpStream::connect(address).is_err());
    }
}
