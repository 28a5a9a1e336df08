// Package export_highwater_operator_guest counts the records of each key: `plugins/count` with
// `emit = "final"`, in Go.
//
// The state has the name and the encoding of the Rust one, so each goes on with the counts of the other.
package export_highwater_operator_guest

import (
	"encoding/binary"
	"fmt"
	"strconv"

	. "wit_component/highwater_operator_guest"
	"wit_component/highwater_operator_output"
	"wit_component/highwater_operator_state"
	"wit_component/highwater_operator_types"

	types "go.bytecodealliance.org/pkg/wit/types"
)

const (
	count = 0
	out   = 0
)

func ok() types.Result[types.Unit, Failure] {
	return types.Ok[types.Unit, Failure](types.Unit{})
}

// numbers reads the counts of a column; an empty cell is 0.
func numbers(column Cells) []uint64 {
	counts := make([]uint64, len(column.Offsets)-1)
	for i := range counts {
		if cell := column.Data[column.Offsets[i]:column.Offsets[i+1]]; len(cell) > 0 {
			counts[i] = binary.LittleEndian.Uint64(cell)
		}
	}
	return counts
}

// cells makes a column of what `write` appends for each count.
func cells(counts []uint64, write func([]byte, uint64) []byte) Cells {
	column := Cells{Data: make([]byte, 0, 8*len(counts)), Offsets: make([]uint32, 1, len(counts)+1)}
	for _, n := range counts {
		column.Data = write(column.Data, n)
		column.Offsets = append(column.Offsets, uint32(len(column.Data)))
	}
	return column
}

func digits(data []byte, n uint64) []byte {
	return strconv.AppendUint(data, n, 10)
}

func failure(message string) Failure {
	return Failure{
		Kind:    highwater_operator_types.FailureKindConfig,
		Message: message,
		Record:  types.None[uint32](),
	}
}

// Describe says what the operator needs and gives.
func Describe(config string) types.Result[Description, Failure] {
	if config != "{}" {
		return types.Err[Description](failure("this counter has no configuration"))
	}
	row := []highwater_operator_types.Column{{Name: "count", Kind: highwater_operator_types.ColumnKindInteger}}
	return types.Ok[Description, Failure](Description{
		Outputs: []Port{{
			Name:       "out",
			Keyed:      true,
			KeyColumns: []highwater_operator_types.Column{{Name: "word", Kind: highwater_operator_types.ColumnKindText}},
			Format:     highwater_operator_types.MakeFormatRow(row),
		}},
		States: []StateDescriptor{{
			Name:          "count",
			Kind:          StateKindValue,
			Scope:         StateScopeKeyed,
			Schema:        "u64",
			SchemaVersion: 1,
			Ttl:           types.None[uint64](),
		}},
	})
}

// Open is called once per instance.
func Open(context OpenContext) types.Result[types.Unit, Failure] {
	fmt.Printf("counting in Go, subtask %d\n", context.Subtask)
	return ok()
}

// Process counts a batch.
func Process(batch Batch) types.Result[types.Unit, Failure] {
	counts := numbers(highwater_operator_state.Load(count).Values)
	for _, number := range batch.KeyNumbers {
		counts[number]++
	}
	keys := make([]uint32, len(counts))
	for i := range keys {
		keys[i] = uint32(i)
	}
	highwater_operator_state.Store(count, keys, cells(counts, binary.LittleEndian.AppendUint64))
	return ok()
}

// EndOfInput emits all counts.
func EndOfInput(input uint32) types.Result[types.Unit, Failure] {
	var cursor []byte
	for more := true; more; {
		page := highwater_operator_state.Scan(count, cursor, 4096)
		highwater_operator_output.Emit(out, page.Keys, cells(numbers(page.Values), digits), nil)
		cursor, more = page.Cursor, page.More
	}
	return ok()
}

// OnTimers has nothing to do.
func OnTimers(fired Fired) types.Result[types.Unit, Failure] { return ok() }

// OnWatermark has nothing to do.
func OnWatermark(watermark int64) types.Result[types.Unit, Failure] { return ok() }

// OnCheckpointComplete has nothing to do.
func OnCheckpointComplete(checkpoint uint64) types.Result[types.Unit, Failure] { return ok() }

// Migrate knows no older version of the state.
func Migrate(state uint32, fromVersion uint32, values Cells) types.Result[Cells, Failure] {
	return types.Err[Cells](failure("no older version of the state is known"))
}

// Close has nothing to do.
func Close() types.Result[types.Unit, Failure] { return ok() }
