-- Departures from New York in January 2013, counted and summed up per carrier in windows of four kinds:
-- tumbling.csv, sliding.csv, cumulative.csv, session.csv.
--
-- The reports are those of the example `hourly-delays` without its last file, so none of them is late. The order of
-- the reports is no part of these questions: a job that reads them out of order must give the same answers.

CREATE TABLE reports AS
SELECT carrier, departed, dep_delay
FROM read_csv('../../examples/hourly-delays/input/reports-[123].csv.gz', types = {'departed': 'TIMESTAMP'});

-- The windows of a report are those with first <= departed < last. One row for a report and a window.

-- Four windows a day, from midnight in New York, which is 05:00 UTC.
CREATE VIEW tumbling AS
WITH starts AS (
    SELECT *, time_bucket(INTERVAL 6 HOUR, departed, INTERVAL 5 HOUR) AS first FROM reports
)
SELECT *, first + INTERVAL 6 HOUR AS last FROM starts;

-- Twelve hours, every three hours.
CREATE VIEW sliding AS
SELECT
    *,
    time_bucket(INTERVAL 3 HOUR, departed) - to_hours(3 * step) AS first,
    first + INTERVAL 12 HOUR AS last
FROM reports, range(4) AS steps(step);

-- Six, twelve, eighteen and twenty-four hours from midnight UTC.
CREATE VIEW cumulative AS
SELECT *, date_trunc('day', departed) AS first, first + to_hours(6 * step) AS last
FROM reports, range(1, 5) AS steps(step)
WHERE departed < last;

-- As long as the next report is at most 20 minutes after the one before. The bound of the disorder is longer, so
-- reports that come late to their place join sessions that were two.
CREATE VIEW session AS
WITH steps AS (
    SELECT *, departed - lag(departed) OVER one_carrier AS since_last
    FROM reports
    WINDOW one_carrier AS (PARTITION BY carrier ORDER BY departed)
),
numbered AS (
    SELECT *, count(*) FILTER (since_last IS NULL OR since_last > INTERVAL 20 MINUTE) OVER until_now AS session
    FROM steps
    WINDOW until_now AS (PARTITION BY carrier ORDER BY departed)
)
SELECT
    *,
    min(departed) OVER one_session AS first,
    max(departed) OVER one_session + INTERVAL 20 MINUTE AS last
FROM numbered
WINDOW one_session AS (PARTITION BY carrier, session);

CREATE MACRO summed_up(windows) AS TABLE
SELECT
    carrier, epoch_ms(first), epoch_ms(last), count(*), sum(dep_delay), min(dep_delay), max(dep_delay)
FROM query_table(windows)
GROUP BY carrier, first, last
ORDER BY carrier, first, last;

COPY (FROM summed_up('tumbling')) TO 'tumbling.csv' (HEADER false);
COPY (FROM summed_up('sliding')) TO 'sliding.csv' (HEADER false);
COPY (FROM summed_up('cumulative')) TO 'cumulative.csv' (HEADER false);
COPY (FROM summed_up('session')) TO 'session.csv' (HEADER false);
