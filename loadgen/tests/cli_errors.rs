//! What is wrong on the command line is told in one message, with exit code 64, before anything starts.

mod support;

use support::{run, text};

#[test]
fn wrong_command_lines_exit_64_and_say_what_is_wrong() {
    let url = "http://127.0.0.1:1/";
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["walk"], "walk"),
        (&["run"], "<URL>"),
        (&["run", "--sped", url], "--sped"),
        (&["run", "https://localhost/", url], "http and https"),
        (&["run", "--cacert", "/no/such.pem", "https://localhost/"], "/no/such.pem"),
        (&["run", "--cacert", "/dev/null", "https://localhost/"], "no certificate"),
        (&["run", "--streams-per-connection", "5", url], "--http2"),
        (&["run", "--http2", "--streams-per-connection", "0", url], "0"),
        (&["run", "--http2", "-H", "Host: a b", url], "HTTP/2"),
        (&["run", "localhost:8080"], "expected http://"),
        (&["run", "http://no-such-host.invalid/"], "cannot resolve"),
        (&["run", "-c", "0", url], "0"),
        (&["run", "--ramp", "fast", url], "500/s"),
        (&["run", "-d", "long", url], "--duration"),
        (&["run", "--source", "127.0.0.9-127.0.0.2", url], "127.0.0.2-127.0.0.9"),
        (&["run", "--source", "::1", url], "address family"),
        (&["run", "-H", "nocolon", url], "Name: value"),
        (&["run", "-X", "GE T", url], "GE T"),
        (&["run", "--body", "@/no/such/file", url], "/no/such/file"),
        (&["run", "--fail-if", "p98>1ms", url], "p98"),
        (&["run", "-c", "100000000", url], "--processes"),
        (&["run", "-c", "1000000", "--processes", "1000", url], "--source 127.0.0.2-"),
        (&["compare", "--targets", "direct,apache"], "apache"),
        (&["compare", "--streams", "10", "--low", "10"], "--low"),
        (&["compare", "--protocol", "http3"], "h2c"),
        (&["compare", "--protocol", "h2", "--targets", "nginx,direct"], "leave direct out"),
        (&["compare", "--protocol", "h2c", "--targets", "haproxy"], "leave haproxy out"),
        (&["compare", "--protocol", "tls", "--streams-per-connection", "5"], "h2 and h2c"),
        (&["compare", "--protocol", "h2", "--stalled", "5"], "--stalled"),
        (&["compare", "--protocol", "tls", "--origin", url, "--service", "nginx=http://127.0.0.1:1"], "--service"),
        (&["compare", "--interval", "2s", "--heartbeat", "1s"], "--heartbeat"),
        (&["compare", "--interval", "2s", "--duration", "1s"], "--duration"),
        (&["compare", "--targets", "sse-proxy", "--proxy-bin", "/no/such/proxy"], "--proxy-bin"),
        (
            &["compare", "--targets", "nginx", "--nginx-bin", "/bin/true", "--nginx-conf", "/no/such.conf"],
            "/no/such.conf",
        ),
        (&["compare", "--targets", "direct", "--streams", "100000000"], "--processes"),
        (&["compare", "--targets", "haproxy", "--haproxy-bin", "/no/such/haproxy"], "leave haproxy out"),
        (
            &["compare", "--targets", "haproxy", "--haproxy-bin", "/bin/true", "--haproxy-conf", "/no/such.cfg"],
            "/no/such.cfg",
        ),
        (&["compare", "--targets", "direct", "--streams", "10000000", "--processes", "1000"], "--origins"),
        (&["compare", "--workers", "0"], "--workers"),
        (&["compare", "--ramp-rate", "fast"], "per second, or max"),
        (&["knee", "--targets", "apache"], "apache"),
        (&["knee", "--targets", "direct", "--from", "10", "--to", "9"], "--to"),
        (&["knee", "--targets", "direct", "--factor", "1"], "--factor"),
        (&["knee", "--targets", "direct", "--streams", "10", "--from", "1", "--duration", "1s"], "--duration"),
        (&["bench", "--suites", "staggered,everything"], "suites are staggered, broadcast"),
        (&["bench", "--targets", "apache"], "apache"),
        (&["bench", "--targets", "nginx", "--nginx-bin", "/no/such/nginx"], "--nginx-bin"),
        (&["compare", "--service", "nginx=http://127.0.0.1:1"], "--origin"),
        (&["compare", "--origin", url, "--service", "apache=http://127.0.0.1:1"], "targets are direct"),
        (&["compare", "--origin", url, "--service", "nginx=127.0.0.1:1"], "expected http://"),
        (
            &[
                "compare",
                "--origin",
                url,
                "--service",
                "direct=http://127.0.0.1:1",
                "--service",
                "direct=http://127.0.0.1:2",
            ],
            "twice",
        ),
        (&["compare", "--origin", url], "--service"),
        (&["merge"], "<FILE>"),
        (&["merge", "/no/such.json"], "/no/such.json"),
        (&["merge", "--fail-if", "p98>1ms", "/no/such.json"], "p98"),
        (&["report", "/no/such.json"], "/no/such.json"),
        (&["origin", "--listen", "here"], "here"),
        (&["origin", "--threads", "0"], "0"),
    ];
    assert!(cases.len() > 20);
    for (arguments, expected) in cases {
        let output = run(arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(!message.contains("sse-loadgen: sse-loadgen"), "{arguments:?}: {message}");
    }
}

#[test]
fn outside_of_the_repository_the_options_that_name_configurations_are_the_remedy() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    for (target, option) in
        [("nginx", "--nginx-conf"), ("nginx+sse-proxy", "--front-conf"), ("haproxy", "--haproxy-conf")]
    {
        let programs = ["--nginx-bin", "/bin/true", "--proxy-bin", "/bin/true", "--haproxy-bin", "/bin/true"];
        let mut command = support::program();
        let output =
            command.args(["compare", "--targets", target]).args(programs).current_dir(elsewhere.path()).output();
        let output = output.expect("the program starts");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{target}: {message}");
        let wanted = [": No such file", "in a clone of the repository", option];
        assert!(wanted.iter().all(|part| message.contains(part)), "{target}: {message}");
    }
}

#[test]
fn help_and_version_exit_0_and_help_tells_the_exit_codes_and_examples() {
    for arguments in [
        &["--help"][..],
        &["run", "--help"],
        &["compare", "--help"],
        &["knee", "--help"],
        &["bench", "--help"],
        &["origin", "--help"],
        &["--version"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    for command in ["run", "compare", "knee", "bench", "merge", "report"] {
        let help = text(&run(&[command, "--help"]).stdout);
        assert!(help.contains("Examples:") && help.contains("130  interrupted"), "{help}");
    }
}

#[test]
fn what_fails_at_run_time_exits_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = run(&["origin", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&address));
    assert_eq!(run(&["worker"]).status.code(), Some(1));
}
