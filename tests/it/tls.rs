//! How the API is reached: whose certificates are believed, through which proxy, and for how long over one connection.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use audio_cache_sweeper::{
    api::{self, Api, Transport as _},
    model::clock::{Clock, Timestamp},
    sandbox::{Mood, Options, Sandbox},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use uuid::Uuid;

use crate::{
    daemon::{Daemon, KEY, configured, finish, queue, sandbox, sql},
    replies::batch,
};

/// Who signs certificates that nobody knows of.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A server's side of TLS, with a certificate for `name`.
    pub fn acceptor(&self, name: &str, is_expired: bool) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if is_expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A server with a certificate for `name`, in front of the sandbox.
    pub async fn serve(&self, name: &str, is_expired: bool, sandbox: &Sandbox) -> SocketAddr {
        let acceptor = self.acceptor(name, is_expired);
        let behind: SocketAddr = sandbox.url().trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Whoever does not believe us goes away.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        address
    }
}

/// A proxy that knows CONNECT, and what it was asked.
pub async fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
    let heads = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = Arc::clone(&heads);
            tokio::spawn(async move {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    head.push(char::from(stream.read_u8().await.unwrap()));
                }
                let to = head.split(' ').nth(1).unwrap().replace("localhost", "127.0.0.1");
                heads.lock().unwrap().push(head);
                let mut behind = TcpStream::connect(to).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 go on\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    (address, asked)
}

/// A daemon that finds its API there, and none of the environment's proxies.
pub fn over_tls(dir: &Path, sandbox: &Sandbox, port: u16) -> Command {
    let mut command = configured(dir, sandbox);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(name);
    }
    command.env("SWEEPER__API__BASE_URL", format!("https://localhost:{port}"));
    command.env("SWEEPER__DELIVERY__BATCH_SIZE", "1").env("SWEEPER__HOLD__BASE_DELAY", "1h");
    command.env("SWEEPER__HOLD__MAX_DELAY", "2h");
    command
}

fn lines(stdout: &str, event: &str) -> Vec<Value> {
    let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}

async fn until_empty(mut command: Command) -> (i32, String, String) {
    command.args(["run", "--until-empty", "--give-up-after", "20s"]);
    finish(command).await
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_needs_a_person_and_the_row_waits() {
    let sandbox = sandbox(Options::default()).await;
    let authority = Authority::new();
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca.path(), &authority.pem).unwrap();
    let cases = [
        ("localhost", false, false, "issuer"),
        ("localhost", true, true, "expired"),
        ("other.test", false, true, "not valid for name"),
    ];
    for (name, is_expired, is_known, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        queue(dir.path(), 1).await;
        let port = authority.serve(name, is_expired, &sandbox).await.port();
        let mut command = over_tls(dir.path(), &sandbox, port);
        if is_known {
            command.env("SWEEPER__API__CA_FILE", ca.path());
        }
        let daemon = Daemon::start(command).until("hold_placed").await;
        let text = daemon.text().to_owned();
        let [hold] = &lines(&text, "hold_placed")[..] else { panic!("{text}") };
        assert_eq!(
            (&hold["level"], &hold["cause"], &hold["scope"]),
            (&"ERROR".into(), &"untrusted".into(), &"*".into())
        );
        assert!(hold["detail"].as_str().unwrap().to_lowercase().contains(said), "{said}: {hold}");
        daemon.signal("TERM");
        assert_eq!(daemon.ended().await.0, 0);
        let row = "SELECT state || attempts || last_cause FROM deletions";
        assert_eq!(sql(dir.path(), row).await[0].0, "pending0untrusted");
        assert_eq!(sql(dir.path(), "SELECT fault FROM requests").await[0].0, "untrusted");
    }
    assert_eq!(sandbox.requests().len(), 0);
}

/// Answers whatever comes first on a connection with these bytes, and hangs up.
async fn blunt(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// Of a row that cannot be sent: the level and the cause of the hold that is placed, and what is said with it.
async fn held(mut command: Command, dir: &Path) -> (String, String, String) {
    queue(dir, 1).await;
    // A first fault holds, so that one that may pass places a hold, too.
    command.env("SWEEPER__HOLD__AFTER_FAULTS", "1");
    let daemon = Daemon::start(command).until("hold_placed").await;
    daemon.signal("TERM");
    let (code, log) = daemon.ended().await;
    assert_eq!(code, 0);
    assert_eq!(sql(dir, "SELECT state || attempts FROM deletions").await[0].0, "pending0");
    let field = |name| log.last("hold_placed", name);
    (field("level"), field("cause"), field("detail"))
}

#[tokio::test]
async fn a_server_that_refuses_tls_for_good_needs_a_person_and_one_in_trouble_does_not() {
    let sandbox = sandbox(Options::default()).await;
    let cases: [(&[u8], &str, &str); 8] = [
        (&[21, 3, 3, 0, 2, 2, 40], "untrusted", "handshake"),
        (&[21, 3, 3, 0, 2, 2, 49], "untrusted", "access"),
        (&[21, 3, 3, 0, 2, 2, 70], "untrusted", "version"),
        (&[21, 3, 3, 0, 2, 2, 112], "untrusted", "name"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "untrusted", "corrupt"),
        (&[21, 3, 3, 0, 2, 2, 80], "unreachable", "internal"),
        (&[21, 3, 3, 0, 2, 2, 90], "unreachable", "cancel"),
        (b"", "unreachable", "eof"),
    ];
    for (answer, cause, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let port = blunt(answer).await.port();
        let held = held(over_tls(dir.path(), &sandbox, port), dir.path()).await;
        let level = if cause == "untrusted" { "ERROR" } else { "WARN" };
        assert_eq!((held.0.as_str(), held.1.as_str()), (level, cause), "{said}: {held:?}");
        assert!(held.2.to_lowercase().contains(said), "{said}: {held:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_wants_a_password_needs_a_person_and_one_in_trouble_does_not() {
    let sandbox = sandbox(Options::default()).await;
    let cases: [(&[u8], &str, &str, &str); 3] = [
        (
            b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            "ERROR",
            "untrusted",
            "the proxy refuses: 407 Proxy Authentication Required; api.proxy must",
        ),
        (b"HTTP/1.1 502 No route\r\n\r\n", "WARN", "unreachable", "the proxy (api.proxy) does not open a connection"),
        (b"HTTP/1.1 403 Never\r\n\r\n", "WARN", "unreachable", "the proxy (api.proxy) does not open a connection"),
    ];
    for (answer, level, cause, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        let proxy = blunt(answer).await;
        let mut command = over_tls(dir.path(), &sandbox, 9);
        command.env("SWEEPER__API__PROXY", format!("http://{proxy}"));
        let held = held(command, dir.path()).await;
        assert_eq!((held.0.as_str(), held.1.as_str()), (level, cause), "{held:?}");
        assert!(held.2.contains(said), "{held:?}");
    }
}

#[tokio::test]
async fn a_private_issuer_is_believed_if_it_is_named_with_or_without_those_of_the_system() {
    let sandbox = sandbox(Options::default()).await;
    let authority = Authority::new();
    let port = authority.serve("localhost", false, &sandbox).await.port();
    for variables in [
        &[("SWEEPER__API__CA_FILE", "ca.pem")][..],
        &[("SSL_CERT_FILE", "ca.pem")],
        &[("SWEEPER__API__CA_FILE", "ca.pem"), ("SSL_CERT_FILE", "nowhere"), ("SSL_CERT_DIR", "nowhere")],
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        queue(dir.path(), 3).await;
        let mut command = over_tls(dir.path(), &sandbox, port);
        command.envs(variables.iter().copied());
        let (code, stdout, stderr) = until_empty(command).await;
        assert_eq!(code, 0, "{variables:?} {stdout} {stderr}");
    }
}

#[tokio::test]
async fn without_any_issuer_a_start_and_a_check_say_what_to_do_and_loopback_without_tls_needs_none() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    queue(dir.path(), 1).await;
    fs::write(dir.path().join("none.pem"), "no certificate\n").unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    let cases = [
        (None, &["CA certificates", "ca-certificates", "api.ca_file"][..]),
        (Some("nowhere.pem"), &["api.ca_file /", "/nowhere.pem: No such file"]),
        (Some("none.pem"), &["/none.pem: ", "no certificate in PEM"]),
        (Some("dir"), &["/dir: ", "is a directory"]),
    ];
    for (ca_file, said) in cases {
        for name in ["check", "run"] {
            let mut command = over_tls(dir.path(), &sandbox, 9);
            command.arg(name).env("SSL_CERT_FILE", "nowhere").env("SSL_CERT_DIR", "nowhere");
            command.envs(ca_file.map(|path| ("SWEEPER__API__CA_FILE", path)));
            let (code, stdout, stderr) = finish(command).await;
            assert_eq!(code, 2, "{stderr}");
            said.iter().for_each(|text| assert!(stderr.contains(text), "{text:?} is missing in {stderr}"));
            assert!(name == "check" || lines(&stdout, "stopped")[0]["level"] == "ERROR", "{stdout}");
        }
    }
    let mut command = configured(dir.path(), &sandbox);
    command.env("SSL_CERT_FILE", "nowhere").env("SSL_CERT_DIR", "nowhere");
    assert_eq!(until_empty(command).await.0, 0);
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_and_never_sees_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let authority = Authority::new();
    fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let port = authority.serve("localhost", false, &sandbox).await.port();
    let (proxy, asked) = proxy().await;
    queue(dir.path(), 3).await;
    let mut command = over_tls(dir.path(), &sandbox, port);
    command.env("SWEEPER__API__CA_FILE", "ca.pem").env("SWEEPER__API__PROXY", format!("http://{proxy}"));
    command.env("HTTPS_PROXY", "http://127.0.0.1:1");
    let (code, stdout, _) = until_empty(command).await;
    assert_eq!((code, lines(&stdout, "proxy_ignored").len()), (0, 0), "{stdout}");
    assert_eq!(sandbox.requests().len(), 3);
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    assert!(!heads.is_empty());
    for head in heads {
        assert!(head.starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\n")), "{head}");
        assert!(!head.contains(KEY) && !head.to_lowercase().contains("api-key"), "{head}");
    }

    // Off, the environment's are not used, and that is said once, without what may be a password in them.
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'more')").await;
    let mut command = over_tls(dir.path(), &sandbox, port);
    command.env("SWEEPER__API__CA_FILE", "ca.pem").env("HTTPS_PROXY", "http://u:pa55@127.0.0.1:1");
    command.env("all_proxy", "http://127.0.0.1:1");
    let (code, stdout, _) = until_empty(command).await;
    let [unused] = &lines(&stdout, "proxy_ignored")[..] else { panic!("{stdout}") };
    assert_eq!((code, &unused["level"], &unused["variables"]), (0, &"WARN".into(), &"HTTPS_PROXY, all_proxy".into()));
    assert!(!stdout.contains("pa55"));

    // Without TLS the proxy would see the key: it is not asked.
    sql(dir.path(), "INSERT INTO deletions (agent_id, entry_id) VALUES ('a', 'last')").await;
    let mut command = configured(dir.path(), &sandbox);
    command.env("SWEEPER__API__PROXY", format!("http://{proxy}"));
    assert_eq!(until_empty(command).await.0, 0);
    assert_eq!((sandbox.requests().len(), asked.lock().unwrap().len()), (5, 0));
}

#[tokio::test]
async fn a_proxy_that_cannot_be_one_is_refused_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    for (url, said) in [
        ("proxy.example.org:3128", "must be http://"),
        ("https://proxy.example.org", "must be http://"),
        ("http://user:pa55@proxy.example.org:3128", "a user or a password"),
        ("http://proxy.example.org/pa55", "must end with its port"),
        ("pa55", "is not a URL"),
    ] {
        let mut command = configured(dir.path(), &sandbox);
        command.arg("check").env("SWEEPER__API__PROXY", url);
        let (code, stdout, stderr) = finish(command).await;
        assert!(
            code == 2 && stderr.contains(&format!("api.proxy: {said}")) || stderr.contains(said),
            "{url}: {stderr}"
        );
        assert!(!stdout.contains("pa55") && !stderr.contains("pa55"), "{stdout}{stderr}");
    }
}

#[tokio::test]
async fn a_connection_lives_for_a_minute_and_not_beyond_a_run_of_faults() {
    let sandbox = sandbox(Options::default()).await;
    let clock = Clock::manual(Timestamp(4_000_000_000_000));
    let options = api::Options {
        base_url: sandbox.url().parse().unwrap(),
        key: KEY.into(),
        proxy: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
    };
    let api = Api::new(options).unwrap().with_clock(clock.clone());
    let ask = async |times: usize, after: Duration| {
        for _ in 0..times {
            clock.advance(after);
            let _ = api.bulk_delete(&batch(&["1"]), Uuid::nil()).await;
        }
        sandbox.connections()
    };
    assert_eq!(ask(50, Duration::from_secs(1)).await, 1, "all over one");
    assert_eq!(ask(50, Duration::from_secs(1)).await, 2, "once a minute, another one");
    sandbox.script([Mood::status(503), Mood::status(503), Mood::Plain, Mood::status(503), Mood::status(500)]);
    assert_eq!(ask(6, Duration::from_millis(100)).await, 2, "never three in a row");
    sandbox.script(vec![Mood::status(503); 3]);
    assert_eq!(ask(4, Duration::from_millis(100)).await, 3, "after three, another one");
    sandbox.script(vec![Mood::status(503); 9]);
    assert_eq!(ask(10, Duration::ZERO).await, 3, "not at once again");
    sandbox.script(vec![Mood::status(404); 9]);
    assert_eq!(ask(10, Duration::from_millis(100)).await, 3, "that was the API's own word");
}
