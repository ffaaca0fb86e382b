-- What a request did to its rows is written with the request, as the rows themselves are: a row of its own for each of them
-- was a sixth of what a deletion costs. `outcomes` shows it as before, to those whose SQLite knows JSON; a producer's need
-- not, since a view is looked into only when it is read.

ALTER TABLE requests ADD COLUMN verdicts TEXT; -- [{"verdict": …, "cause": …, "deletion_ids": […]}, …]; no ids: all of them

-- Of requests that somebody removed, nothing is left to write it with. The casts, because CHECKs can be switched off: JSON
-- has no place for a blob.
UPDATE requests SET verdicts = (
    SELECT json_group_array(json_object('verdict', verdict, 'cause', cause, 'deletion_ids', json(ids))) FROM (
        SELECT CAST(verdict AS TEXT) AS verdict, CAST(cause AS TEXT) AS cause,
            json_group_array(CAST(deletion_id AS INTEGER)) AS ids
        FROM outcomes WHERE request_id = requests.id GROUP BY 1, 2))
WHERE EXISTS (SELECT 1 FROM outcomes WHERE request_id = requests.id);

DROP TABLE outcomes;

-- What each request did to each of its rows. What somebody spoilt is left out, and keeps nobody from reading the others.
CREATE VIEW outcomes (request_id, deletion_id, verdict, cause) AS
SELECT requests.id, deletion.value, json_extract(given.value, '$.verdict'), json_extract(given.value, '$.cause')
FROM requests
CROSS JOIN json_each(CASE WHEN json_valid(requests.verdicts) THEN requests.verdicts END) AS given
CROSS JOIN json_each(CASE WHEN given.type = 'object' THEN CASE
    WHEN json_type(given.value, '$.deletion_ids') = 'array' THEN json_extract(given.value, '$.deletion_ids')
    WHEN json_valid(requests.deletion_ids) THEN requests.deletion_ids END END) AS deletion;
