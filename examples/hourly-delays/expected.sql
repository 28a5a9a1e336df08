-- What the job must write, from the files that it reads: expected.csv and expected-late.csv.
SET threads = 1;  -- so that rows are numbered in the order of the files

CREATE MACRO bound() AS INTERVAL 30 MINUTE;  -- `out-of-orderness` of the job file
CREATE MACRO text_of(time) AS strftime(time, '%Y-%m-%dT%H:%M:%SZ');

CREATE TABLE reports AS
SELECT
    row_number() OVER () AS number, filename AS file,
    departed, carrier, flight, tailnum, origin, dest, dep_delay,
    time_bucket(INTERVAL 1 HOUR, departed) AS hour
FROM read_csv('input/*.csv.gz', filename = true, types = {'departed': 'TIMESTAMP'});

-- A watermark promises that no report up to its time follows. When it moves depends on the clock. So each report
-- has two of them: the lowest and the highest that the job can have when it reads the report. The files are read
-- one after the other. A file that is not yet begun holds the watermark at its first report, a file that is read at
-- the latest departure so far, each less the bound and a millisecond.
CREATE TABLE watermarks AS
WITH files AS (
    SELECT file, arg_min(departed, number) AS first_departed FROM reports GROUP BY file
),
held AS (
    SELECT file, first_departed, min(first_departed) OVER later AS held_by_later
    FROM files
    WINDOW later AS (ORDER BY file ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
),
read AS (
    SELECT
        number, first_departed, held_by_later,
        max(departed) OVER (
            PARTITION BY file ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS latest
    FROM reports JOIN held USING (file)
)
SELECT
    number,
    max(least(first_departed, held_by_later)) OVER so_far - bound() - INTERVAL 1 MILLISECOND AS lowest,
    max(least(coalesce(latest, first_departed), held_by_later)) OVER so_far - bound() - INTERVAL 1 MILLISECOND AS highest
FROM read
WINDOW so_far AS (ORDER BY number);

-- A report is late if the watermark has passed the last millisecond of its hour.
CREATE TABLE judged AS
SELECT *,
    hour + INTERVAL 1 HOUR - INTERVAL 1 MILLISECOND <= lowest AS is_late,
    hour + INTERVAL 1 HOUR - INTERVAL 1 MILLISECOND <= highest AS may_be_late
FROM reports JOIN watermarks USING (number);

SELECT error('whether report ' || number || ' is late depends on when the watermark moves')
FROM judged WHERE is_late != may_be_late;

COPY (
    SELECT
        origin, epoch_ms(hour), epoch_ms(hour + INTERVAL 1 HOUR),
        count(*), regexp_replace(avg(dep_delay)::VARCHAR, '\.0$', ''), max(dep_delay)
    FROM judged WHERE NOT is_late
    GROUP BY origin, hour
    ORDER BY origin, hour
) TO 'expected.csv' (HEADER false);

COPY (
    SELECT origin, text_of(departed), carrier, flight, tailnum, origin, dest, dep_delay
    FROM judged WHERE is_late
    ORDER BY origin, departed, carrier, flight
) TO 'expected-late.csv' (HEADER false);
