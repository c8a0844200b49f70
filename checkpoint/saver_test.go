package checkpoint

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-ml/lockstep/internal/vfs"
	"github.com/lockstep-ml/lockstep/internal/vfs/errorfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSaverWritesBesideTrainingAndOutlivesAFailure(t *testing.T) {
	o := DefaultOptions(t.TempDir())
	o.FS = errorfs.New(vfs.OS{}, errorfs.Fault{At: 1, Err: syscall.ENOSPC, Only: "rename"})
	store := openStore(t, o)
	var reports []Saved // written by Run's goroutine, read after it has ended
	saver := NewSaver(store, func(s Saved) { reports = append(reports, s) })
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- saver.Run(ctx) }()
	for step := range uint64(3) {
		if err := saver.Submit(testContext(t), testCheckpoint(t, step)); err != nil {
			t.Fatal(err)
		}
	}
	cancel() // the last one is in hand, and is finished
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(reports) != 3 || reports[0].Err != nil || !errors.Is(reports[1].Err, syscall.ENOSPC) || reports[2].Err != nil {
		t.Fatalf("reports %+v", reports)
	}
	if got := list(t, store); !slices.Equal(got, []uint64{2, 0}) {
		t.Errorf("steps %v are saved, want 2 and 0", got)
	}
	if saver.Busy() || saver.Flush(testContext(t)) != nil {
		t.Error("an idle saver says it is busy")
	}
}

func TestSaverWaitsAreBounded(t *testing.T) {
	hold, entered := make(chan struct{}), make(chan struct{})
	store := openStore(t, DefaultOptions(t.TempDir()))
	saver := NewSaver(store, func(Saved) { close(entered); <-hold })
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := saver.Submit(gone, testCheckpoint(t, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Submit without a Run: %v", err)
	}
	if saver.Busy() {
		t.Error("a submission that was given up keeps the saver busy")
	}
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- saver.Run(ctx) }()
	if err := saver.Submit(testContext(t), testCheckpoint(t, 1)); err != nil {
		t.Fatal(err)
	}
	<-entered
	if !saver.Busy() {
		t.Error("a saver at work says it is idle")
	}
	if err := saver.Submit(gone, testCheckpoint(t, 2)); !errors.Is(err, context.Canceled) {
		t.Errorf("Submit to a busy saver: %v", err)
	}
	if err := saver.Flush(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush of a busy saver: %v", err)
	}
	close(hold)
	if err := saver.Flush(testContext(t)); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
