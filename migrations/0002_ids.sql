-- Ids that would keep everybody else from inserting.

-- AUTOINCREMENT gives out the highest id so far plus one: after a row with the highest that there is, every INSERT would
-- fail with "database or disk is full". 2^53 is more than will ever be enqueued.
CREATE TRIGGER deletions_id_too_high BEFORE INSERT ON deletions
WHEN NEW.id > 9007199254740992
BEGIN
    SELECT RAISE(ABORT, 'this id leaves no room for others: leave the id out of the INSERT');
END;

CREATE TRIGGER deletions_id_changed BEFORE UPDATE OF id ON deletions
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'the id of a deletion stays as it is');
END;

-- In a BEFORE trigger, NEW.id is -1 if none was given: a row -1, its CHECK switched off, would stand for all of them.
DROP TRIGGER deletions_id_taken;
CREATE TRIGGER deletions_id_taken BEFORE INSERT ON deletions
WHEN NEW.id > 0
    AND EXISTS (SELECT 1 FROM deletions WHERE id = NEW.id AND (agent_id <> NEW.agent_id OR entry_id <> NEW.entry_id))
BEGIN
    SELECT RAISE(ABORT, 'this id belongs to another deletion: leave the id out of the INSERT');
END;
