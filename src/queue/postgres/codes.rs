//! What the errors of PostgreSQL mean: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The connection is gone, or in an unknown state, and so is what it was doing.
    Lost,
    /// Others kept us from it, or the server lacks something. Later it may work, on the same connection.
    Busy,
    /// The server does not let us in.
    Denied,
    /// A read failed, or the data is damaged.
    Damaged,
    /// A row has a value that none of ours has.
    InvalidRow,
    /// Anything else: a person must act.
    Other,
}

/// The kind of this error.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "sqlx's enum: its other variants are no errors of a running connection"
)]
pub(super) fn class_of(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => error.code().map_or(Class::Other, |code| class_of_code(&code)),
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Class::InvalidRow,
        // Certificates and passwords, which are replaced while a daemon runs.
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Class::Denied,
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Class::Lost,
        _ => Class::Other,
    }
}

/// Whether a transaction failed because it stood in another one's way, which is over now.
pub(super) fn is_worth_another_try(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

/// Whether this role lacks a right.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    // insufficient_privilege
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
}

/// Whether the session has prepared statements that are not ours, or lacks ours: a pooler gives each transaction another session.
pub(super) fn is_of_a_pooler(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    // duplicate_prepared_statement, invalid_sql_statement_name
    code.is_some_and(|code| matches!(&*code, "42P05" | "26000"))
}

fn class_of_code(code: &str) -> Class {
    match code {
        // query_canceled (a timeout of ours), lock_not_available, and two transactions that stood in each other's way
        "57014" | "55P03" | "40001" | "40P01" => Class::Busy,
        // the server ended the session, or is starting or stopping; its idle timeouts
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Class::Lost,
        // read_only_sql_transaction: the server takes no writes any more, as before a switch to another one. A new connection is made to
        // one that does.
        "25006" => Class::Lost,
        // data_corrupted, index_corrupted, io_error
        "XX001" | "XX002" | "58030" => Class::Damaged,
        // connection_exception
        _ if code.starts_with("08") => Class::Lost,
        // invalid_authorization_specification
        _ if code.starts_with("28") => Class::Denied,
        // insufficient_resources: a full disk, no memory, too many connections
        _ if code.starts_with("53") => Class::Busy,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_whether_the_session_lives_and_whether_waiting_helps() {
        for (class, codes) in [
            (Class::Busy, vec!["57014", "55P03", "40001", "40P01", "53100", "53300"]),
            (Class::Lost, vec!["57P01", "57P03", "08006", "08P01", "25P03", "57P05", "25006"]),
            (Class::Denied, vec!["28000", "28P01"]),
            (Class::Damaged, vec!["XX001", "XX002", "58030"]),
            (Class::Other, vec!["42P01", "42501", "23505", "XX000"]),
        ] {
            for code in codes {
                assert_eq!(class_of_code(code), class, "{code}");
            }
        }
        let gone = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(class_of(&sqlx::Error::Io(gone)), Class::Lost);
        assert_eq!(class_of(&sqlx::Error::Decode("too long".into())), Class::InvalidRow);
        assert_eq!(class_of(&sqlx::Error::RowNotFound), Class::Other);
    }
}
