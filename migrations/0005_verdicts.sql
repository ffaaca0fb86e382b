-- What a request did to its rows is written with the request, as the rows themselves are: a row of its own for each of them
-- was a sixth of what a deletion costs. `outcomes` shows it as before, to whose SQLite knows JSON; nobody else is kept
-- from anything, since a view is looked into when it is read.

ALTER TABLE requests ADD COLUMN verdicts TEXT; -- [{"verdict": …, "cause": …, "deletion_ids": […]}, …]; no ids: all of them

-- Of requests that somebody removed, nothing is left to write it with.
UPDATE requests SET verdicts = (
    SELECT json_group_array(json_object('verdict', verdict, 'cause', cause, 'deletion_ids', json(ids))) FROM (
        SELECT verdict, cause, json_group_array(deletion_id) AS ids FROM outcomes
        WHERE request_id = requests.id GROUP BY verdict, cause))
WHERE EXISTS (SELECT 1 FROM outcomes WHERE request_id = requests.id);

DROP TABLE outcomes;

-- What each request did to each of its rows.
CREATE VIEW outcomes (request_id, deletion_id, verdict, cause) AS
SELECT requests.id, deletion.value, json_extract(given.value, '$.verdict'), json_extract(given.value, '$.cause')
FROM requests
CROSS JOIN json_each(CASE WHEN json_valid(requests.verdicts) THEN requests.verdicts END) AS given
CROSS JOIN json_each(coalesce(
    json_extract(given.value, '$.deletion_ids'),
    CASE WHEN json_valid(requests.deletion_ids) THEN requests.deletion_ids END)) AS deletion;
