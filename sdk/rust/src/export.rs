//! Making an operator the component's.

use crate::operator::Operator;

/// Makes a type that implements [`Operator`](crate::Operator) the component's operator. Once per crate.
///
/// Of a [`WindowOperator`](crate::WindowOperator) it names the field that holds the window:
/// `export!(Hourly { delays })`.
#[macro_export]
macro_rules! export {
    ($operator:ident { $window:ident }) => {
        impl $crate::Operator for $operator {
            fn open(ctx: &mut $crate::OpenContext) -> $crate::Result<Self> {
                <Self as $crate::WindowOperator<_>>::open(ctx)
            }

            #[inline]
            fn process(
                &mut self,
                record: $crate::Record<'_>,
                out: &mut $crate::Emitter,
            ) -> $crate::Result<()> {
                let window = ::std::clone::Clone::clone(&self.$window);
                $crate::window::add(self, &window, record, out)
            }

            fn process_batch(
                &mut self,
                batch: $crate::Batch<'_>,
                out: &mut $crate::Emitter,
            ) -> $crate::Result<()> {
                let window = ::std::clone::Clone::clone(&self.$window);
                $crate::window::add_batch(self, &window, batch, out)
            }

            fn on_timers(
                &mut self,
                fired: $crate::Fired<'_>,
                out: &mut $crate::Emitter,
            ) -> $crate::Result<()> {
                let window = ::std::clone::Clone::clone(&self.$window);
                $crate::window::on_timers(self, &window, fired, out)
            }
        }

        $crate::export!($operator);
    };
    ($operator:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::exports::highwater::operator::guest as wit;
            use $crate::bindings::highwater::operator::types;

            ::std::thread_local! {
                static SLOT: $crate::guest::Slot<$operator> = const { $crate::guest::Slot::new() };
            }

            struct Component;

            impl wit::Guest for Component {
                fn describe(
                    config: ::std::string::String,
                    inputs: ::std::vec::Vec<types::Port>,
                ) -> ::std::result::Result<wit::Description, types::Failure> {
                    SLOT.with(|slot| slot.describe(config, &inputs))
                }
                fn open(context: wit::OpenContext) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.open(context))
                }
                fn process(batch: types::Batch) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.process(batch))
                }
                fn on_timers(fired: types::Fired) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.on_timers(fired))
                }
                fn on_watermark(watermark: i64) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.on_watermark(watermark))
                }
                fn end_of_input(input: u32) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.end_of_input(input))
                }
                fn on_checkpoint_complete(
                    checkpoint: u64,
                ) -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.on_checkpoint_complete(checkpoint))
                }
                fn migrate(
                    state: u32,
                    from_version: u32,
                    values: types::Cells,
                ) -> ::std::result::Result<types::Cells, types::Failure> {
                    SLOT.with(|slot| slot.migrate(state, from_version, &values))
                }
                fn close() -> ::std::result::Result<(), types::Failure> {
                    SLOT.with(|slot| slot.close())
                }
            }

    $crate::bindings::__export!(Component with_types_in $crate::bindings);
        };

        // Built natively there is nothing to export, but the operator is used all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::export::assert_operator::<$operator>();
    };
}

/// For [`export!`](crate::export!): fails to compile unless `T` is an operator.
#[doc(hidden)]
pub const fn assert_operator<T: Operator>() {}
