// Counts the records of each key: `plugins/count` with `emit = "final"`, in C.
//
// The state has the name and the encoding of the Rust one, so each goes on with the counts of the other.
// What a function gets it owns and frees; what it returns is freed by the bindings. A column that is passed
// to the host stays ours.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/operator.h"

enum { COUNT = 0, OUT = 0, PAGE = 4096, DIGITS_MAX = 20 };

typedef highwater_operator_types_cells_t cells;
typedef exports_highwater_operator_guest_failure_t failure;

// Wasm has no other way to say that there is no memory.
static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) abort();
  return memory;
}

// The count in a cell; an empty one is 0.
static uint64_t number(const cells *column, size_t i) {
  uint32_t start = column->offsets.ptr[i];
  uint64_t count = 0;
  if (column->offsets.ptr[i + 1] - start == sizeof count) {
    memcpy(&count, column->data.ptr + start, sizeof count);
  }
  return count;
}

static bool fails(failure *err, const char *message) {
  err->kind = HIGHWATER_OPERATOR_TYPES_FAILURE_KIND_CONFIG;
  operator_string_dup(&err->message, message);
  err->record.is_some = false;
  return false;
}

bool exports_highwater_operator_guest_describe(operator_string_t *config,
                                               exports_highwater_operator_guest_description_t *ret, failure *err) {
  bool is_empty = config->len == 2 && memcmp(config->ptr, "{}", 2) == 0;
  operator_string_free(config);
  if (!is_empty) return fails(err, "this counter has no configuration");
  memset(ret, 0, sizeof *ret);

  ret->outputs.len = 1;
  exports_highwater_operator_guest_port_t *port = ret->outputs.ptr = allocate(1, sizeof *port);
  operator_string_dup(&port->name, "out");
  port->keyed = true;
  port->key_columns.len = 1;
  port->key_columns.ptr = allocate(1, sizeof *port->key_columns.ptr);
  operator_string_dup(&port->key_columns.ptr->name, "word");
  port->key_columns.ptr->kind = HIGHWATER_OPERATOR_TYPES_COLUMN_KIND_TEXT;
  port->format.tag = HIGHWATER_OPERATOR_TYPES_FORMAT_ROW;
  port->format.val.row.len = 1;
  port->format.val.row.ptr = allocate(1, sizeof *port->format.val.row.ptr);
  operator_string_dup(&port->format.val.row.ptr->name, "count");
  port->format.val.row.ptr->kind = HIGHWATER_OPERATOR_TYPES_COLUMN_KIND_INTEGER;

  ret->states.len = 1;
  exports_highwater_operator_guest_state_descriptor_t *state = ret->states.ptr = allocate(1, sizeof *state);
  operator_string_dup(&state->name, "count");
  state->kind = EXPORTS_HIGHWATER_OPERATOR_GUEST_STATE_KIND_VALUE;
  state->scope = EXPORTS_HIGHWATER_OPERATOR_GUEST_STATE_SCOPE_KEYED;
  operator_string_dup(&state->schema, "u64");
  state->schema_version = 1;
  return true;
}

bool exports_highwater_operator_guest_open(exports_highwater_operator_guest_open_context_t *context, failure *err) {
  (void)err;
  printf("counting in C, subtask %" PRIu32 "\n", context->subtask);
  fflush(stdout);
  exports_highwater_operator_guest_open_context_free(context);
  return true;
}

bool exports_highwater_operator_guest_process(exports_highwater_operator_guest_batch_t *batch, failure *err) {
  (void)err;
  highwater_operator_state_loaded_t loaded;
  highwater_operator_state_load(COUNT, &loaded);
  size_t count = loaded.values.offsets.len - 1;
  operator_list_u32_t keys = {allocate(count, sizeof(uint32_t)), count};
  uint64_t *counts = allocate(count, sizeof *counts);
  cells written = {{(uint8_t *)counts, count * sizeof *counts},
                   {allocate(count + 1, sizeof(uint32_t)), count + 1}};
  for (size_t i = 0; i < count; i++) {
    keys.ptr[i] = i;
    counts[i] = number(&loaded.values, i);
    written.offsets.ptr[i + 1] = (i + 1) * sizeof *counts;
  }
  for (size_t i = 0; i < batch->key_numbers.len; i++) counts[batch->key_numbers.ptr[i]]++;
  highwater_operator_state_store(COUNT, &keys, &written);
  free(keys.ptr);
  free(counts);
  free(written.offsets.ptr);
  highwater_operator_state_loaded_free(&loaded);
  exports_highwater_operator_guest_batch_free(batch);
  return true;
}

bool exports_highwater_operator_guest_end_of_input(uint32_t input, failure *err) {
  (void)input, (void)err;
  operator_list_u8_t cursor = {NULL, 0};
  bool more = true;
  while (more) {
    highwater_operator_state_scanned_t page;
    highwater_operator_state_scan(COUNT, &cursor, PAGE, &page);
    size_t count = page.values.offsets.len - 1;
    // One more byte, because a text ends with a zero.
    cells rows = {{allocate(count * DIGITS_MAX + 1, 1), 0}, {allocate(count + 1, sizeof(uint32_t)), count + 1}};
    for (size_t i = 0; i < count; i++) {
      char *end = (char *)rows.data.ptr + rows.data.len;
      rows.data.len += snprintf(end, DIGITS_MAX + 1, "%" PRIu64, number(&page.values, i));
      rows.offsets.ptr[i + 1] = rows.data.len;
    }
    operator_list_s64_t timestamps = {NULL, 0};
    highwater_operator_output_emit(OUT, &page.keys, &rows, &timestamps);
    free(rows.data.ptr);
    free(rows.offsets.ptr);
    operator_list_u8_free(&cursor);
    cursor = page.cursor;
    page.cursor = (operator_list_u8_t){NULL, 0};
    more = page.more;
    highwater_operator_state_scanned_free(&page);
  }
  operator_list_u8_free(&cursor);
  return true;
}

bool exports_highwater_operator_guest_on_timers(exports_highwater_operator_guest_fired_t *fired, failure *err) {
  (void)err;
  exports_highwater_operator_guest_fired_free(fired);
  return true;
}

bool exports_highwater_operator_guest_on_watermark(int64_t watermark, failure *err) {
  (void)watermark, (void)err;
  return true;
}

bool exports_highwater_operator_guest_on_checkpoint_complete(uint64_t checkpoint, failure *err) {
  (void)checkpoint, (void)err;
  return true;
}

bool exports_highwater_operator_guest_migrate(uint32_t state, uint32_t from_version, cells *values, cells *ret,
                                              failure *err) {
  (void)state, (void)from_version, (void)ret;
  exports_highwater_operator_guest_cells_free(values);
  return fails(err, "no older version of the state is known");
}

bool exports_highwater_operator_guest_close(failure *err) {
  (void)err;
  return true;
}
