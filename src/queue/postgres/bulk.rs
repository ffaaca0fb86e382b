//! Enqueues, by the thousand: COPY into the inbox.

use std::borrow::Cow;

use sqlx::PgConnection;

use super::{errors::StoreError, producer::Producer, schema_watch::schema_changes};
use crate::{
    model::{clock::Timestamp, label::Label},
    queue::{Enqueued, Wish},
};

/// $1 agents; $2 entries, of one wish after the other. Counts the wishes whose rows are open, and the rows that they will reopen. This
/// is about the rows of the leader alone: wishes that are still in the inbox do not count.
const KNOWN: &str = "
SELECT count(*) FILTER (WHERE known.settled_at IS NULL), count(DISTINCT known.id) FILTER (WHERE known.settled_at IS NOT NULL)
FROM unnest($1::text[], $2::text[]) AS wish (agent_id, entry_id)
JOIN deletions AS known ON known.agent_id = wish.agent_id AND known.entry_id = wish.entry_id
WHERE known.state <> 'new'";

const COPY: &str = "COPY deletions (agent_id, entry_id, priority, due_at, label) FROM STDIN";

const DOING: &str = "enqueue";

/// Bytes of a line of COPY, for the first allocation.
const LINE: usize = 64;

impl Producer {
    /// Enqueues all deletions in one transaction, as a part of the act that was begun, if any.
    ///
    /// # Errors
    /// If the server fails or refuses a row, or something keeps a row out of the inbox; then none is enqueued.
    pub async fn enqueue(&mut self, wishes: &[Wish], now: Timestamp) -> Result<Enqueued, StoreError> {
        self.doing = self.doing.take().map(|doing| doing.about(wishes.iter().map(|wish| &wish.agent)));
        let agents: Vec<&str> = wishes.iter().map(|wish| wish.agent.as_str()).collect();
        let entries: Vec<&str> = wishes.iter().map(|wish| wish.entry.as_str()).collect();
        let lines = lines(wishes);
        let mut left_out = 0;
        let mut enqueue = async |conn: &mut PgConnection| {
            let known = sqlx::query_as(KNOWN).bind(&agents).bind(&entries).fetch_one(&mut *conn).await?;
            let (waiting, reopened): (i64, i64) = known;
            let mut copy = conn.copy_in_raw(COPY).await?;
            copy.send(lines.as_bytes()).await?;
            let accepted = copy.finish().await?;
            left_out = (wishes.len() as u64).saturating_sub(accepted);
            if left_out > 0 {
                // Undoes it.
                return Err(sqlx::Error::RowNotFound);
            }
            let [waiting, reopened] = [waiting, reopened].map(|count| u64::try_from(count).unwrap_or(0));
            Ok((accepted, Enqueued { accepted, waiting, reopened, ..Enqueued::default() }))
        };
        let enqueued = self.transact(DOING, "BEGIN", now, &mut enqueue).await;
        if left_out == 0 {
            return enqueued;
        }
        let changes = self.look(DOING, async |conn: &mut PgConnection| schema_changes(conn, false).await).await?;
        let message = format!("{left_out} of {} rows are not in the inbox after they were enqueued", wishes.len());
        Err(self.not_done(DOING, message, &changes))
    }
}

/// The wishes in the text format of COPY.
fn lines(wishes: &[Wish]) -> String {
    let mut lines = String::with_capacity(wishes.len() * LINE);
    for Wish { agent, entry, priority, due_at, label } in wishes {
        let label = label.as_ref().map_or(Cow::Borrowed("\\N"), |label| escaped(Label::as_str(label)));
        let (agent, entry) = (escaped(agent.as_str()), escaped(entry.as_str()));
        for part in [&agent, "\t", &entry, "\t", &priority.to_string(), "\t", &due_at.0.to_string(), "\t", &label, "\n"]
        {
            lines.push_str(part);
        }
    }
    lines
}

/// A value whose backslashes mean nothing. Tabs and line ends are in none of ours.
fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains('\\') { value.replace('\\', "\\\\").into() } else { value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deletion::{AgentId, EntryId};

    #[test]
    fn a_value_is_never_taken_for_the_end_of_a_line_or_for_no_value() {
        let wish = |entry: &str, label: Option<&str>| Wish {
            agent: AgentId::parse("a").unwrap(),
            entry: EntryId::parse(entry).unwrap(),
            priority: -5,
            due_at: Timestamp(7),
            label: label.map(|label| Label::parse(label).unwrap()),
        };
        let wishes = [wish("\\N", Some("\\N")), wish("\\.", None), wish("c:\\temp", Some("a b"))];
        assert_eq!(lines(&wishes), "a\t\\\\N\t-5\t7\t\\\\N\na\t\\\\.\t-5\t7\t\\N\na\tc:\\\\temp\t-5\t7\ta b\n");
    }
}
