package allreduce

import (
	"context"
	"time"
)

// waiter bounds the waits of one goroutine, one after another, with a single
// context and a single timer: a wait costs no memory. A deadline that was missed
// stays missed, which is right as the ring fails with it.
type waiter struct {
	ctx    context.Context // ends with the caller's, or with the deadline of the wait in progress
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// newWaiter makes a waiter below ctx; close ends it.
func newWaiter(ctx context.Context) *waiter {
	w := &waiter{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(time.Hour, func() { w.cancel(context.DeadlineExceeded) })
	w.timer.Stop()
	return w
}

// begin starts a wait of at most d.
func (w *waiter) begin(d time.Duration) { w.timer.Reset(d) }

// end ends a wait that returned err.
func (w *waiter) end(err error) error {
	if !w.timer.Stop() && err == nil {
		return context.DeadlineExceeded // missed in this instant
	}
	return err
}

func (w *waiter) close() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}
