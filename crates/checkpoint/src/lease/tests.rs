//! Two hosts and one job directory, with everything that can come in between.

mod taking;
