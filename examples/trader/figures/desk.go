package figures

import (
	"context"
	"fmt"
	"time"

	"github.com/ingrain-go/ingrain/aggregate"
)

// Acknowledgements keep the receipts that clients were given.
type Acknowledgements interface {
	Add(aggregate.Receipt) error
}

// Desk is where clients hand in commands: each is counted, and its receipt is
// kept before anybody sees it. It is safe for concurrent use.
type Desk struct {
	Recorder *Recorder
	Acks     Acknowledgements
}

// Run executes one command.
func (d *Desk) Run(ctx context.Context, command func(context.Context) (aggregate.Receipt, error)) (aggregate.Receipt, error) {
	d.Recorder.Begin()
	began := time.Now()
	receipt, err := command(ctx)
	if err == nil {
		if err = d.Acks.Add(receipt); err != nil {
			err = fmt.Errorf("keep the receipt of %s: %w", receipt.Command, err)
		}
	}
	d.Recorder.End(err, time.Since(began))
	return receipt, err
}
