//! What `check` sees of a queue on a server: the server, who answers there, the tables, the role's rights, and who leads.

use super::{line::Line, local};
use crate::{
    cli::times::plural,
    queue::{
        SchemaChange, names_of,
        postgres::{Address, Checkup, OpenError, Rights, Server, Tables, quoted},
        report::{Leadership, Session},
    },
};

/// The server, the tables, the rights, and the daemons.
pub(super) fn lines(address: &Address, checkup: &Checkup) -> Vec<Line> {
    let issuers = checkup.issuers.iter().map(issuers);
    let server = match &checkup.server {
        Ok(server) => server,
        Err(error) => return [Line::not("database", error.to_string())].into_iter().chain(issuers).collect(),
    };
    let said = format!("{address}, PostgreSQL {}, as the role {}", server.version, server.role);
    let mut lines = vec![Line::ok("database", said)];
    lines.extend(verified(address, server).into_iter().chain(issuers));
    if server.is_pooled {
        let said = "a pooler gives each transaction another session, and daemons and commands need one to themselves: connect past \
                    the pooler, or through it in session mode. SQL clients of producers may use it";
        lines.push(Line::not("pooler", said));
    }
    match &checkup.tables {
        Ok(tables) => lines.extend(of_tables(tables, &server.role)),
        Err(OpenError::Empty { .. }) => {
            lines.push(Line::open("tables", "not made yet; `sweeper init` or the first daemon makes them"));
            lines.push(creator(address, server));
        }
        Err(error) => lines.push(Line::not("tables", error.to_string())),
    }
    lines
}

/// A file with trusted issuers.
fn issuers((named, found): &(String, Result<usize, String>)) -> Line {
    match found {
        Ok(certificates) => {
            let certificates = plural(*certificates as u64, "certificate", "certificates");
            Line::ok("issuers", format!("{named}: {certificates}"))
        }
        Err(error) => Line::not("issuers", error.clone()),
    }
}

/// Whether the role may make the tables.
fn creator(address: &Address, server: &Server) -> Line {
    let role = &server.role;
    if server.may_create {
        return Line::ok("rights", format!("{role} may make the tables"));
    }
    let [database, name] = [address.database(), role].map(quoted);
    let said = format!(
        "{role} may not make the tables: a superuser runs GRANT CREATE ON DATABASE {database} TO {name} once, or a role that may runs \
         `sweeper init`"
    );
    Line::not("rights", said)
}

/// Whether anybody makes sure that it is the right server that answers.
fn verified(address: &Address, server: &Server) -> Vec<Line> {
    let encrypted =
        server.tls.as_ref().map_or_else(|| "not encrypted".to_owned(), |version| format!("encrypted with {version}"));
    let unverified: Vec<Line> = address
        .unverified()
        .map(|(name, mode)| {
            let said = format!(
                "{name} is reached with sslmode={mode}, now {encrypted}: nobody makes sure that it is the right server, which \
                 gets the password. Use sslmode=verify-full; database.ca_file names the issuer of a private certificate"
            );
            Line::not("tls", said)
        })
        .collect();
    if unverified.is_empty() {
        vec![Line::ok("tls", format!("{encrypted}; the server is on this machine, or verified"))]
    } else {
        unverified
    }
}

fn of_tables(tables: &Tables, role: &str) -> Vec<Line> {
    let mut lines = vec![changed(&tables.changes)];
    lines.extend(tables.rights.map(|given| rights(given, role)));
    let Some(seen) = &tables.seen else { return lines };
    lines.push(local::daemon(&seen.daemon));
    lines.extend(seen.daemon.leadership.as_ref().map(standbys));
    lines
}

/// Whether the tables are as sweeper makes them. Only the speed depends on an index.
fn changed(changes: &[SchemaChange]) -> Line {
    if changes.is_empty() {
        return Line::ok("tables", "up to date");
    }
    let names = names_of(changes);
    let indexes = changes.iter().filter(|object| object.kind == "index").count();
    let said = if indexes == changes.len() {
        "Every turn of the daemon may be slow: drop the indexes that are not sweeper's, and make those that are"
    } else {
        "What is added runs with every write of the daemon, and what is missing or changed does not protect the queue: drop what is not \
         sweeper's, and restore what is. The owner of the tables must be the role of the daemon, or a role that it is a member of"
    };
    Line::not("tables", format!("others have changed them: {names}. {said}"))
}

/// What the role may do, and who gives it more.
fn rights(rights: Rights, role: &str) -> Line {
    let Rights { owns, reads, enqueues, releases, sees_sessions } = rights;
    let sessions = if sees_sessions {
        ""
    } else {
        "; the server hides the addresses of other roles from it: GRANT pg_read_all_stats shows them"
    };
    let said = match (owns, reads && releases, enqueues) {
        (true, ..) => format!("{role} owns the tables: it may run a daemon, and every command{sessions}"),
        (false, true, _) => format!("{role} may run every command except run, init and grant{sessions}"),
        (false, false, true) => {
            format!(
                "{role} may enqueue, and not see the queue; `sweeper grant --operator {role}` lets it run the other commands"
            )
        }
        (false, false, false) => {
            let said = format!(
                "{role} may neither enqueue nor see the queue; the owner of the tables runs `sweeper grant --operator {role}` or `sweeper grant --producer {role}`"
            );
            return Line::not("rights", said);
        }
    };
    Line::ok("rights", said)
}

fn standbys(leadership: &Leadership) -> Line {
    let who = |session: &Session| {
        let from = session.client.as_ref().map_or_else(String::new, |client| format!(" from {client}"));
        format!("{}{from}, session {}", session.user, session.backend)
    };
    let standbys: Vec<String> = leadership.standbys.iter().map(who).collect();
    let leader =
        leadership.leader.as_ref().map_or_else(|| "nobody leads".to_owned(), |leader| format!("{} leads", who(leader)));
    let waits = match standbys.len() {
        0 => "no daemon stands by".to_owned(),
        count => format!("{}: {}", plural(count as u64, "daemon stands by", "daemons stand by"), standbys.join("; ")),
    };
    Line::open("leader", format!("{leader}, epoch {}; {waits}", leadership.epoch))
}
