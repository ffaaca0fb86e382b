//! Gateways with a limit, in front of a stand-in for the API: real nginx, and real HAProxy.

use std::{
    env,
    fmt::{self, Display, Formatter},
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a gateway may take to start.
const START: Duration = Duration::from_secs(5);
/// The time between two tries to connect to a gateway that starts.
const TRY: Duration = Duration::from_millis(20);

/// Which gateway, and what it allows each API key.
#[derive(Clone, Debug)]
pub enum Limit {
    /// nginx: the `rate` of `limit_req_zone`, such as `10r/s`, and the directives that use the zones `rate` and `connections`.
    Nginx { rate: &'static str, directives: String },
    /// HAProxy: the number of requests in a sliding window, and the window's length. Refused requests count.
    HaProxy { requests: u32, seconds: u32 },
}

impl Limit {
    /// The program that holds the limit.
    pub fn program(&self) -> Program {
        match self {
            Self::Nginx { .. } => Program::Nginx,
            Self::HaProxy { .. } => Program::HaProxy,
        }
    }

    /// The program's configuration. Both programs log the Unix time and the status of each answer: HAProxy in milliseconds,
    /// nginx in seconds with exactly three decimals.
    fn configuration(&self, listen: SocketAddr, upstream: &str) -> String {
        match self {
            Self::Nginx { rate, directives } => format!(
                "daemon off; worker_processes 1; pid nginx.pid; error_log error.log;
                 events {{ worker_connections 512; }}
                 http {{
                     log_format answers '$msec $status';
                     access_log {ANSWERS} answers;
                     client_body_temp_path body; proxy_temp_path proxy;
                     fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                     limit_req_zone $http_x_api_key zone=rate:1m rate={rate};
                     limit_conn_zone $http_x_api_key zone=connections:1m;
                     limit_req_status 429; limit_conn_status 429;
                     upstream api {{ server {upstream}; keepalive 32; }}
                     server {{
                         listen {listen};
                         location / {{
                             {directives}
                             proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection '';
                         }}
                     }}
                 }}"
            ),
            Self::HaProxy { requests, seconds } => format!(
                "global\n log stdout format raw local0\n nbthread 1\n\
                 defaults\n mode http\n log global\n option dontlognull\n log-format \"%[date(0,ms)] %ST\"\n \
                 timeout client 30s\n timeout server 30s\n timeout connect 5s\n\
                 frontend gateway\n bind {listen}\n \
                 stick-table type string len 64 size 1k expire 120s store http_req_rate({seconds}s)\n \
                 http-request track-sc0 hdr(x-api-key)\n \
                 http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {requests} }}\n \
                 default_backend api\n\
                 backend api\n server api {upstream}\n"
            ),
        }
    }
}

/// A program that limits requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Nginx,
    HaProxy,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
        }
    }

    /// The package of Debian that has it.
    pub fn package(self) -> &'static str {
        match self {
            Self::Nginx => "nginx-light",
            Self::HaProxy => "haproxy",
        }
    }

    /// Where it is. Debian installs both in /usr/sbin, which is only in root's `PATH`.
    pub fn find(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
        dirs.map(|dir| dir.join(self.name())).find(|program| program.is_file())
    }

    /// What it says of its version.
    pub fn version(self) -> String {
        let said = self.find().and_then(|program| Command::new(program).arg("-v").output().ok());
        // nginx says it on its standard error.
        let said = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let mut words = said.split(['/', ' ', '\n']);
        let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        version.map_or_else(|| self.to_string(), |version| format!("{self} {version}"))
    }
}

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
        })
    }
}

/// The file with a line for each answer.
const ANSWERS: &str = "answers";
const CONFIGURATION: &str = "gateway.conf";

/// An answer that a gateway gave.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Unix time, in milliseconds.
    pub at: i64,
    pub status: u16,
}

/// A gateway that runs. Its processes are killed when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    process: Child,
    listen: SocketAddr,
    dir: PathBuf,
    upstream: String,
}

impl Gateway {
    /// Starts one in front of `upstream`, an address, with its files in `dir`, and waits until it accepts connections.
    pub async fn start(limit: &Limit, upstream: &str, dir: &Path) -> Self {
        // Neither program can tell which port it took, so the system chooses one beforehand.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let configuration = dir.join(CONFIGURATION);
        fs::write(&configuration, limit.configuration(listen, upstream)).unwrap();
        let program = limit.program();
        let mut command = Command::new(program.find().unwrap());
        match program {
            Program::Nginx => command.arg("-p").arg(dir).arg("-c").arg(&configuration),
            Program::HaProxy => command.arg("-db").arg("-f").arg(&configuration).stdout(log(dir, ANSWERS)),
        };
        // In a process group of its own: nginx's worker outlives its killed master, and the whole group must end.
        let process = command.stderr(log(dir, "said")).process_group(0).spawn().unwrap();
        let mut gateway = Self { process, listen, dir: dir.to_owned(), upstream: upstream.to_owned() };
        gateway.wait_until_it_accepts(program).await;
        gateway
    }

    async fn wait_until_it_accepts(&mut self, program: Program) {
        let mut waited = Duration::ZERO;
        while TcpStream::connect(self.listen).is_err() {
            let ended = self.process.try_wait().unwrap();
            let said = || fs::read_to_string(self.dir.join("said")).unwrap();
            assert!(ended.is_none() && waited < START, "{program} does not start: {ended:?}, {}", said());
            tokio::time::sleep(TRY).await;
            waited += TRY;
        }
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Gives nginx another limit while it runs. HAProxy would need a second process, which forgets the counted requests.
    pub fn change(&self, limit: &Limit) {
        assert_eq!(limit.program(), Program::Nginx);
        fs::write(self.dir.join(CONFIGURATION), limit.configuration(self.listen, &self.upstream)).unwrap();
        kill_process(Pid::from_child(&self.process), Signal::HUP).unwrap();
    }

    /// The answers that it has given.
    pub fn answers(&self) -> Vec<Answer> {
        let lines = fs::read_to_string(self.dir.join(ANSWERS)).unwrap();
        let parse = |line: &str| {
            let (at, status) = line.split_once(' ')?;
            Some(Answer { at: at.replace('.', "").parse().ok()?, status: status.parse().ok()? })
        };
        // HAProxy also logs its start there, and that the stand-in answers.
        lines.lines().filter_map(parse).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}

/// A new file that a process writes to.
pub fn log(dir: &Path, name: &str) -> File {
    File::create(dir.join(name)).unwrap()
}
