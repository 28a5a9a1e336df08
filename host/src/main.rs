//! The `host` binary; everything is in the library, so that other programs can run jobs as well.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::main()
}
