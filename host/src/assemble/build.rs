//! `--build`: runs the commands that build components, before anything is loaded.

use std::process::{Command, Stdio};

use job_file::JobFile;
use job_file::problem::Problems;

/// Runs every operator's build command, the same one in the same directory once. Their output goes to
/// stderr. What fails goes to `problems`, and the others are built all the same.
pub(crate) fn build(job: &JobFile, problems: &mut Problems) {
    let mut done = Vec::new();
    for operator in &job.operators {
        let Some(command) = &operator.build else {
            continue;
        };
        if done.contains(&(command, &operator.build_dir)) {
            continue;
        }
        done.push((command, &operator.build_dir));
        tracing::info!(operator = operator.node.id, "building: {command}");
        let status = Command::new("sh")
            .arg("-c")
            .arg(command)
            .current_dir(&operator.build_dir)
            .stdin(Stdio::null())
            // Results of ours go to stdout; what a build prints is none.
            .stdout(std::io::stderr())
            .status();
        let (key, message) = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => ("build", format!("`{command}` failed: {status}")),
            Err(error) if !operator.build_dir.is_dir() => (
                "build-dir",
                format!(
                    "`{command}` cannot run in {}: {error}",
                    operator.build_dir.display()
                ),
            ),
            Err(error) => ("build", format!("`{command}` cannot be run: {error}")),
        };
        let place = operator.node.place_of(key);
        let path = format!("operator.{}.{key}", operator.node.id);
        problems.push(place, path, message, None);
    }
}
