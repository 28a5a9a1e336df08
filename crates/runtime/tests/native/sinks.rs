//! A sink that fails now and then.

use std::sync::Arc;

use dataflow::{Batch, CheckpointId};
use runtime::source::Part;
use runtime::{BoxError, Sink, SinkFactory, SubtaskContext};

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
    fn delivery(&self) -> runtime::Delivery {
        runtime::Delivery::ExactlyOnce
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
