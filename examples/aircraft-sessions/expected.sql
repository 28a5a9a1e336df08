-- What the job must write, from the files that it reads: expected.csv.

CREATE MACRO gap() AS INTERVAL 8 HOUR;  -- `gap` of the job file
CREATE MACRO text_of(time) AS strftime(time, '%Y-%m-%dT%H:%M:%SZ');

-- A departure belongs to the session of the one before if at most the gap is between them.
CREATE TABLE departures AS
WITH reports AS (
    FROM read_csv('input/*.csv.gz', types = {'departed': 'TIMESTAMP'})
),
steps AS (
    SELECT *, departed - lag(departed) OVER one_aircraft AS since_last
    FROM reports
    WINDOW one_aircraft AS (PARTITION BY tailnum ORDER BY departed)
)
SELECT *, count(*) FILTER (since_last IS NULL OR since_last > gap()) OVER until_now AS session
FROM steps
WINDOW until_now AS (PARTITION BY tailnum ORDER BY departed);

-- Departures exactly the gap apart are one session. They are in the data, so the job shows that it agrees.
SELECT error('no two departures are exactly the gap apart')
WHERE NOT EXISTS (FROM departures WHERE since_last = gap());

COPY (
    SELECT
        tailnum, text_of(min(departed)), text_of(max(departed)), count(*), max(dep_delay)
    FROM departures
    GROUP BY tailnum, session
    HAVING count(*) > 1
    ORDER BY tailnum, session
) TO 'expected.csv' (HEADER false);
