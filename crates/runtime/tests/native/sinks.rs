//! A sink that fails now and then.

use std::sync::Arc;

use dataflow::{Batch, CheckpointId};
use operator::source::Part;
use operator::{
    BoxError, Delivery, JobIdentity, Origin, Published, Sink, SinkFactory, SubtaskContext,
    Withdrawn,
};

use super::trouble::{Place, Trouble};

pub(crate) struct Fragile {
    pub(crate) sink: Arc<dyn SinkFactory>,
    pub(crate) trouble: Trouble,
}

struct FragileSubtask {
    sink: Box<dyn Sink>,
    trouble: Trouble,
}

fn strike(trouble: &Trouble, place: Place) -> Result<(), BoxError> {
    match trouble.strikes(place) {
        true => Err(format!("planted at {place:?}").into()),
        false => Ok(()),
    }
}

impl SinkFactory for Fragile {
    fn delivery(&self) -> Delivery {
        self.sink.delivery()
    }

    fn published_after(&self, origin: &Origin, after: u64) -> Result<Published, BoxError> {
        self.sink.published_after(origin, after)
    }

    fn withdraw(
        &self,
        origin: &Origin,
        after: u64,
        kept: Option<&[Part]>,
    ) -> Result<Withdrawn, BoxError> {
        self.sink.withdraw(origin, after, kept)
    }

    fn can_withdraw(&self) -> bool {
        self.sink.can_withdraw()
    }

    fn abandon(&self, job: &JobIdentity, generation: u64) -> Result<(), BoxError> {
        self.sink.abandon(job, generation)
    }

    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Sink>, BoxError> {
        strike(&self.trouble, Place::Create)?;
        Ok(Box::new(FragileSubtask {
            sink: self.sink.create(context, restored)?,
            trouble: self.trouble.clone(),
        }))
    }
}

impl Sink for FragileSubtask {
    fn write(&mut self, batch: &Batch) -> Result<(), BoxError> {
        strike(&self.trouble, Place::Write)?;
        self.sink.write(batch)
    }

    fn prepare(&mut self, id: CheckpointId) -> Result<Vec<Part>, BoxError> {
        strike(&self.trouble, Place::Prepare)?;
        self.sink.prepare(id)
    }

    fn commit(&mut self, id: CheckpointId) -> Result<(), BoxError> {
        strike(&self.trouble, Place::Commit)?;
        self.sink.commit(id)
    }

    fn close(&mut self) -> Result<(), BoxError> {
        self.sink.close()
    }
}
