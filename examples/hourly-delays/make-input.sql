-- Makes input/: a report of each departure in January 2013, in the order in which the reports came.
--
-- The flights are real, and so are their times. When a report came is made up, but the same in every run: the
-- digits of an MD5 hash take the place of chance.

CREATE TABLE reports AS
WITH flights AS (
    SELECT
        time_hour + to_minutes(minute + dep_delay) AS departed,
        carrier, flight, tailnum, origin, dest, dep_delay,
        md5(concat_ws(',', time_hour, carrier, flight, origin)) AS drawn
    FROM read_csv('../flight-delays/input/flights-2013-01.csv.gz',
                  nullstr = 'NA', types = {'time_hour': 'TIMESTAMP'})
    WHERE dep_delay IS NOT NULL  -- cancelled flights have none
),
draws AS (
    SELECT *,
        ('0x' || drawn[1:8])::UBIGINT AS first_draw,
        ('0x' || drawn[9:16])::UBIGINT AS second_draw
    FROM flights
)
SELECT
    departed, carrier, flight, tailnum, origin, dest, dep_delay,
    CASE
        -- One report of a hundred gets stuck, and comes on the afternoon of the 31st: a day late or more.
        WHEN second_draw % 100 = 0 AND departed < TIMESTAMP '2013-01-30'
        THEN TIMESTAMP '2013-01-31 12:00' + to_minutes((first_draw % 360)::BIGINT)
        -- All others come within half an hour, so they overtake each other.
        ELSE departed + to_minutes((first_draw % 30)::BIGINT)
    END AS came
FROM draws;

CREATE MACRO reports_between(first_day, end_day) AS TABLE
SELECT
    strftime(departed, '%Y-%m-%dT%H:%M:%SZ') AS departed,
    carrier, flight, tailnum, origin, dest, dep_delay
FROM reports
WHERE came >= first_day AND came < end_day
ORDER BY came, reports.departed, carrier, flight, origin;

COPY (FROM reports_between(DATE '2013-01-01', DATE '2013-01-11')) TO 'input/reports-1.csv.gz';
COPY (FROM reports_between(DATE '2013-01-11', DATE '2013-01-21')) TO 'input/reports-2.csv.gz';
COPY (FROM reports_between(DATE '2013-01-21', DATE '2013-01-31')) TO 'input/reports-3.csv.gz';
COPY (FROM reports_between(DATE '2013-01-31', DATE '2013-02-02')) TO 'input/reports-4.csv.gz';
