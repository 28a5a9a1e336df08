//! Connects to the server that each record names (`host:port`), and emits what came of it: `connected`,
//! or the kind of error. For tests of what a component may reach.

use std::net::TcpStream;

use highwater::{Emitter, OpenContext, Operator, Record, Result};

struct Dial;

impl Operator for Dial {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out");
        Ok(Self)
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        let server = record.text()?;
        let outcome = match TcpStream::connect(&*server) {
            Ok(_) => "connected".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        out.emit(&*server, outcome.as_str())
    }
}

highwater::export!(Dial);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn what_came_of_it_is_emitted() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = server.local_addr().unwrap().to_string();
        let mut dial = Harness::<Dial>::open().unwrap();
        dial.process(&[("", open.as_str())]).unwrap();
        drop(server);
        dial.process(&[("", open.as_str())]).unwrap();
        assert_eq!(
            dial.take_rows(),
            [
                format!("{open},connected"),
                format!("{open},ConnectionRefused")
            ]
        );
    }
}
