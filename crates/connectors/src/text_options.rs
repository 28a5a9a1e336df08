//! The options that all sources of text have in common.

/// Declares the options of a source of text: its own keys, followed by those of all such sources.
///
/// A macro, because serde cannot flatten a struct into another one that refuses unknown keys.
macro_rules! text_options {
    ($(#[$doc:meta])* struct $name:ident { $($(#[$own_doc:meta])* $own:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize,
        )]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub(crate) struct $name {
            $($(#[$own_doc])* pub(crate) $own: $type,)*
            /// How records are written. The first line of CSV names the columns.
            pub(crate) format: Option<formats::RecordFormat>,
            /// The field or fields that make the record's key; of lines `line`, the whole line.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) key: Option<job_file::options::OneOrMany>,
            /// The field that holds the event time.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) timestamp: Option<formats::timestamp::TimestampOptions>,
            /// How watermarks are made of the event times; see [`crate::event_time::WatermarkOptions`].
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) watermark: Option<job_file::options::Options>,
            /// The longest record.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) max_record_size: Option<String>,
            /// CSV: the most columns of the header.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) max_columns: Option<u32>,
            /// JSON lines: how deep objects and lists are nested at most.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub(crate) max_depth: Option<u32>,
            /// What to do when the job resumes and its input, or the options above, have changed.
            pub(crate) changed: crate::changed::Changed,
        }

        impl $name {
            fn limits(&self) -> formats::text_limits::TextLimitOptions {
                formats::text_limits::TextLimitOptions {
                    record_size: self.max_record_size.clone(),
                    columns: self.max_columns,
                    depth: self.max_depth,
                }
            }

            /// The options with all limits that hold.
            pub(crate) fn effective(&self) -> Self {
                let limits = self.limits().effective(self.format);
                Self {
                    max_record_size: limits.record_size,
                    max_columns: limits.columns,
                    max_depth: limits.depth,
                    watermark: crate::event_time::effective(self.watermark.as_ref()),
                    ..self.clone()
                }
            }

            /// How watermarks are made. Problems go to `problems`.
            fn policy(
                &self,
                meaningless: &'static [(&'static str, &'static str)],
                problems: &mut Vec<job_file::problem::Problem>,
            ) -> Option<dataflow::watermark::Policy> {
                let kind = crate::event_time::Kind {
                    has_timestamps: self.timestamp.is_some(),
                    meaningless,
                };
                crate::event_time::read(self.watermark.as_ref(), &kind, problems)
            }

            /// What is read of a record, of these columns if they are known. Problems go to `problems`.
            fn plan(
                &self,
                columns: Option<Vec<String>>,
                limits: formats::text_limits::TextLimits,
                problems: &mut Vec<job_file::problem::Problem>,
            ) -> Option<formats::plan::Plan> {
                formats::plan::Plan::new(
                    self.format,
                    self.key.as_ref(),
                    self.timestamp.as_ref(),
                    columns,
                    limits,
                    problems,
                )
            }
        }
    };
}

pub(crate) use text_options;
