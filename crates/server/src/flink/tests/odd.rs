//! Odd numbers, odd paths, and what single fields say.

use super::*;
use crate::flink::summary::Numbers;

#[test]
fn percentiles_are_flinks() {
    let percentile =
        |numbers: &[u64], percent| Numbers::new(numbers.iter().copied()).percentile(percent);
    assert_eq!(percentile(&[], 50.0), 0.0);
    assert_eq!(percentile(&[7], 99.9), 7.0);
    assert_eq!(percentile(&[30, 10, 20], 50.0), 20.0);
    assert_eq!(percentile(&[10, 20], 50.0), 15.0);
    assert_eq!(percentile(&[10, 20], 1.0), 10.0);
    // Ten numbers: rank 9.9 is between the ninth and the tenth.
    let ten: Vec<u64> = (1..=10).collect();
    assert!((percentile(&ten, 90.0) - 9.9).abs() < 1e-9);
    assert_eq!(percentile(&ten, 99.0), 10.0);
    assert_eq!(percentile(&[u64::MAX; 3], 75.0), u64::MAX as f64);
}

/// The largest numbers of Highwater are larger than those of Java.
#[test]
fn the_largest_numbers_fit() {
    let mut view = with_checkpoints(JobState::Running);
    let checkpoints = &mut view.checkpoints;
    for count in [
        &mut checkpoints.completed,
        &mut checkpoints.failed,
        &mut checkpoints.in_progress,
        &mut checkpoints.restores,
    ] {
        *count = u64::MAX;
    }
    let mut largest = checkpoint(9, false, 1);
    largest.id = u64::MAX;
    (largest.triggered_at, largest.ended_at) = (i64::MIN, i64::MAX);
    if let Outcome::Completed {
        bytes,
        full_bytes,
        subtasks,
        ..
    } = &mut largest.outcome
    {
        (*bytes, *full_bytes) = (u64::MAX, u64::MAX);
        for subtask in subtasks.values_mut().flatten() {
            subtask.acknowledged_at = i64::MAX;
            (subtask.bytes, subtask.full_bytes) = (u64::MAX, u64::MAX);
            (subtask.upload_us, subtask.index) = (u64::MAX, u32::MAX);
        }
    }
    let largest = Arc::new(largest);
    checkpoints.newest = Some(Arc::clone(&largest));
    checkpoints.newest_checkpoint = Some(Arc::clone(&largest));
    checkpoints.history.insert(0, largest);
    for subtask in view
        .vertices
        .iter_mut()
        .flat_map(|vertex| &mut vertex.subtasks)
    {
        subtask.index = u32::MAX;
        subtask.busy_ms = u64::MAX;
        subtask.back_pressured_ms = u64::MAX;
        for work in &mut subtask.members {
            (work.records_in, work.records_out) = (u64::MAX, u64::MAX);
        }
    }
    view.operator_metrics
        .insert("count".into(), BTreeMap::from([("late".into(), f64::MAX)]));
    view.status.interval_ms = Some(u64::MAX);
    view.status.parallelism = u32::MAX;
    view.status.restarts = u32::MAX;
    view.key_groups = u32::MAX;
    (view.status.started_at, view.state_since) = (i64::MIN, i64::MIN);
    let views = [view];
    for path in PATHS {
        let path = path.replace(":jobid", JOB).replace(":vertexid", COUNT);
        let path = path.replace(":checkpointid", &u64::MAX.to_string());
        let answer = get(&views, &path).unwrap();
        assert!(is_bounded(&answer), "{path}: {answer}");
        get(
            &views,
            &format!("{path}?get=numRecordsIn,0.numRecordsIn&agg=skew,sum"),
        )
        .unwrap();
    }
}

/// Whether every whole number is one of Java's.
fn is_bounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64() || number.is_f64(),
        Value::Array(values) => values.iter().all(is_bounded),
        Value::Object(fields) => fields.values().all(is_bounded),
        _ => true,
    }
}

#[test]
fn other_paths_are_not_flinks() {
    let views = [job(JobState::Running)];
    let other = |path: &str| {
        let path: Vec<&str> = path.split('/').collect();
        answer(&views, &path, None, 0).is_none()
    };
    assert!(other(""));
    assert!(other("jars"));
    assert!(other("jobs/overview/more"));
    assert!(other(&format!("jobs/{JOB}/vertices")));
    assert!(other(&format!("jobs/{JOB}/savepoints/{JOB}")));
    assert!(other(&format!("jobs/{JOB}/checkpoints/{JOB}")));
    assert!(other(&format!("jobs/{JOB}/vertices/{COUNT}/nope")));
    // Also if the job or the vertex is unknown.
    assert!(other(&format!("jobs/{COUNT}/nope")));
    assert!(other(&format!("jobs/{JOB}/vertices/{JOB}/nope")));
}

#[test]
fn refusals_say_what_is_wrong() {
    let views = [with_checkpoints(JobState::Running)];
    let status = |path: &str| get(&views, path).unwrap_err().0;
    assert_eq!(status("/jobs/orders"), 400);
    assert_eq!(status(&format!("/jobs/{COUNT}")), 404);
    assert_eq!(status(&format!("/jobs/{COUNT}/plan")), 404);
    assert_eq!(status(&format!("/jobs/{JOB}/vertices/{JOB}")), 404);
    assert_eq!(status(&format!("/jobs/{JOB}/vertices/x/metrics")), 400);
    assert_eq!(status(&format!("/jobs/{JOB}/checkpoints/details/x")), 400);
    assert_eq!(status(&format!("/jobs/{JOB}/checkpoints/details/99")), 404);
    assert_eq!(
        status(&format!(
            "/jobs/{JOB}/checkpoints/details/5/subtasks/{COUNT}"
        )),
        404
    );
    assert_eq!(
        status(&format!("/jobs/{JOB}/checkpoints/details/4/subtasks/{JOB}")),
        404
    );
    assert_eq!(
        status(&format!("/jobs/{JOB}/exceptions?maxExceptions=0")),
        400
    );
    assert_eq!(
        status(&format!(
            "/jobs/{JOB}/vertices/{COUNT}/subtasks/metrics?get=a&agg=median"
        )),
        400
    );
    assert_eq!(status("/jobs/metrics?jobs=x"), 400);
}

#[test]
fn single_fields_say_what_is_documented() {
    let views = [with_checkpoints(JobState::Running)];
    let get = |path: &str| get(&views, path).unwrap();
    let job = |path: &str| get(&format!("/jobs/{JOB}{path}"));
    let details = job("");
    assert_eq!(details["timestamps"]["RUNNING"], 2_000);
    assert_eq!(details["timestamps"]["RESTARTING"], 3_400);
    // The source read 10 records in each of two subtasks, and split handed on 60.
    assert_eq!(details["vertices"][0]["metrics"]["read-records"], 20);
    assert_eq!(details["vertices"][0]["metrics"]["write-records"], 120);
    assert_eq!(details["vertices"][1]["metrics"]["read-records"], 20);
    assert_eq!(details["vertices"][1]["metrics"]["write-records"], 0);
    assert_eq!(
        details["plan"]["nodes"][1]["description"],
        "count<br/>+- out<br/>"
    );
    let checkpoints = job("/checkpoints");
    assert_eq!(checkpoints["latest"]["completed"]["id"], 3);
    assert_eq!(checkpoints["latest"]["savepoint"]["id"], 4);
    assert_eq!(checkpoints["latest"]["failed"]["id"], 5);
    assert_eq!(
        checkpoints["latest"]["completed"]["end_to_end_duration"],
        41
    );
    assert_eq!(checkpoints["summary"]["checkpointed_size"]["avg"], 1000);
    assert_eq!(checkpoints["counts"]["total"], 6);
    let parts = job(&format!("/checkpoints/details/3/subtasks/{COUNT}"));
    assert_eq!(parts["checkpointed_size"], 600);
    assert_eq!(
        parts["subtasks"][1]["checkpoint"],
        json!({ "sync": 3, "async": 4 })
    );
    let config = job("/checkpoints/config");
    assert_eq!(config["timeout"], 5_400_000);
    assert_eq!(config["checkpoint_storage"], "s3");
    assert_eq!(
        job("/config")["execution-config"]["restart-strategy"],
        "fixed-delay, attempts = 3"
    );
    let vertex = |path: &str| job(&format!("/vertices/{COUNT}{path}"));
    assert_eq!(vertex("/backpressure")["backpressureLevel"], "low");
    assert_eq!(vertex("/watermarks")[0]["value"], "1234");
    assert_eq!(vertex("/watermarks")[1]["value"], i64::MIN.to_string());
    let metrics = vertex("/metrics?get=count.late,1.busyTimeMsPerSecond");
    let expected = json!([
        { "id": "1.busyTimeMsPerSecond", "value": "250" },
        { "id": "count.late", "value": "7" },
    ]);
    assert_eq!(metrics, expected);
    let metrics = vertex("/subtasks/metrics?get=numRecordsIn&agg=SUM,max");
    assert_eq!(
        metrics,
        json!([{ "id": "numRecordsIn", "max": 10.0, "sum": 20.0 }])
    );
    assert_eq!(get("/overview")["slots-total"], 4);
}
