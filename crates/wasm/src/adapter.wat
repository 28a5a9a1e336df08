;; The surface of `wasi_snapshot_preview1` for core modules, on top of three host functions.
;;
;; Nothing is reachable through it: no file, no environment, no argument, no socket. Output, clock and
;; randomness are the host's, under the rules that hold for components. It has no memory of its own and
;; never calls back into the module.
;;
;; Inside `cabi_realloc` a module must not call the host. Go's collector runs there, yields and reads both
;; clocks, so these do not call the host once the first call has set them. What remains are output,
;; randomness and the end, of which a collector has no need.
;;
;; Functions that a module does not import are removed when it is made a component; importing one that is
;; not here is an error at that point.
(module
  (import "env" "memory" (memory 0))
  (import "highwater:preview1/host@0.1.0" "write" (func $write (param i32 i32 i32)))
  (import "highwater:preview1/host@0.1.0" "now" (func $now (param i32) (result i64)))
  (import "highwater:preview1/host@0.1.0" "random" (func $random (result i64)))
  (import "highwater:preview1/host@0.1.0" "exit" (func $exit (param i32)))

  ;; Go's runtime imports this one to stop the clock while the host runs.
  (func (export "adapter_monotonic_clock_set_paused") (param i32))
  (func (export "sched_yield") (result i32) (i32.const 0))
  (func (export "proc_exit") (param i32)
    (call $exit (local.get 0))
    (unreachable))

  ;; No arguments, no environment.
  (func (export "args_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "args_sizes_get") (param i32 i32) (result i32)
    (i32.store (local.get 0) (i32.const 0))
    (i32.store (local.get 1) (i32.const 0))
    (i32.const 0))
  (func (export "environ_get") (param i32 i32) (result i32) (i32.const 0))
  (func (export "environ_sizes_get") (param i32 i32) (result i32)
    (i32.store (local.get 0) (i32.const 0))
    (i32.store (local.get 1) (i32.const 0))
    (i32.const 0))

  ;; Clock 0 is the wall clock, the others count from an unknown start. Nanoseconds. They stand still during
  ;; a call, but for what the module sleeps, which the monotonic one goes on by. So a sleep takes no time, and
  ;; a loop that waits for a clock to show something sees it.
  (global $is_set (mut i32) (i32.const 0))
  (global $wall (mut i64) (i64.const 0))
  (global $monotonic (mut i64) (i64.const 0))
  (global $slept (mut i64) (i64.const 0))
  (func (export "highwater:preview1/clock@0.1.0#set") (param $wall i64) (param $monotonic i64)
    (global.set $wall (local.get $wall))
    (global.set $monotonic (local.get $monotonic))
    (global.set $is_set (i32.const 1)))
  (func $time (param $id i32) (result i64)
    (if (i32.eqz (local.get $id))
      (then
        (if (global.get $is_set) (then (return (global.get $wall))))
        (return (call $now (i32.const 0)))))
    (if (global.get $is_set)
      (then (return (i64.add (global.get $monotonic) (global.get $slept)))))
    (i64.add (call $now (i32.const 1)) (global.get $slept)))
  (func (export "clock_time_get") (param $id i32) (param i64) (param $to i32) (result i32)
    (i64.store (local.get $to) (call $time (local.get $id)))
    (i32.const 0))
  (func (export "clock_res_get") (param i32) (param $to i32) (result i32)
    (i64.store (local.get $to) (i64.const 1000000))
    (i32.const 0))

  (func (export "random_get") (param $to i32) (param $len i32) (result i32)
    (local $bits i64)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $len)))
        (if (i64.eqz (local.get $bits))
          (then (local.set $bits (call $random))))
        (i32.store8 (local.get $to) (i32.wrap_i64 (local.get $bits)))
        (local.set $bits (i64.shr_u (local.get $bits) (i64.const 8)))
        (local.set $to (i32.add (local.get $to) (i32.const 1)))
        (local.set $len (i32.sub (local.get $len) (i32.const 1)))
        (br $next)))
    (i32.const 0))

  ;; 1 and 2 are the log, anything else is not open (8, EBADF).
  (func (export "fd_write") (param $fd i32) (param $vectors i32) (param $count i32) (param $written i32) (result i32)
    (local $total i32)
    (if (i32.and (i32.ne (local.get $fd) (i32.const 1)) (i32.ne (local.get $fd) (i32.const 2)))
      (then (return (i32.const 8))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (call $write
          (local.get $fd)
          (i32.load (local.get $vectors))
          (i32.load offset=4 (local.get $vectors)))
        (local.set $total (i32.add (local.get $total) (i32.load offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $written) (local.get $total))
    (i32.const 0))

  ;; A character device (2) that can be written (64), so that C libraries do not buffer a file.
  (func (export "fd_fdstat_get") (param $fd i32) (param $to i32) (result i32)
    (if (i32.and (i32.ne (local.get $fd) (i32.const 1)) (i32.ne (local.get $fd) (i32.const 2)))
      (then (return (i32.const 8))))
    (i64.store (local.get $to) (i64.const 2))
    (i64.store offset=8 (local.get $to) (i64.const 64))
    (i64.store offset=16 (local.get $to) (i64.const 0))
    (i32.const 0))
  (func (export "fd_fdstat_set_flags") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_close") (param i32) (result i32) (i32.const 8))
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_get") (param i32 i32) (result i32) (i32.const 8))
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) (i32.const 8))

  ;; The first subscription is reported as fired at once, so that no scheduler waits for ever. If it waits
  ;; for a clock, that goes on. A subscription: at 8 its kind (0 for a clock), at 16 the clock, at 24 the time
  ;; in nanoseconds, at 40 whether that is a moment (1) or a span (0).
  (func (export "poll_oneoff") (param $in i32) (param $out i32) (param $count i32) (param $fired i32) (result i32)
    (local $span i64)
    (if (i32.eqz (i32.load8_u offset=8 (local.get $in)))
      (then
        (local.set $span (i64.load offset=24 (local.get $in)))
        (if (i32.and (i32.load16_u offset=40 (local.get $in)) (i32.const 1))
          (then
            (local.set $span
              (i64.sub (local.get $span) (call $time (i32.load offset=16 (local.get $in)))))
            (if (i64.lt_s (local.get $span) (i64.const 0))
              (then (local.set $span (i64.const 0))))))
        (global.set $slept (i64.add (global.get $slept) (local.get $span)))))
    (i64.store (local.get $out) (i64.load (local.get $in)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $in)))
    (i64.store offset=16 (local.get $out) (i64.const 0))
    (i64.store offset=24 (local.get $out) (i64.const 0))
    (i32.store (local.get $fired) (i32.const 1))
    (i32.const 0))
)
