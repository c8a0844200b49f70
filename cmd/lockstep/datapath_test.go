package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// epochSteps is how many steps an epoch of these runs has: 60 images, 4 a step.
const epochSteps = 15

// tiny is a network for tests that are about something else.
const tiny = "cifar-resnet8"

// pathRun are the arguments of a run on images of 32x32, long enough to end in its second epoch.
func pathRun(arch, data, out string, workers int, more ...string) []string {
	return append([]string{"train", "--json", "--arch", arch, "--resolution", "32", "--batch", "4", "--replica-batch", "2", "--lr", "0.01",
		"--eval-every", "0", "--data", data, "--out", out, "--steps", strconv.Itoa(epochSteps + 2), "--workers", strconv.Itoa(workers), "--keep", "1"}, more...)
}

// killedTwice kills everything of a run twice within its first epoch, goes on each time with other workers, and compares weights and
// samples with those of a run on files of this machine that nothing happened to.
func killedTwice(t *testing.T, arch, local, data string, settings []string) {
	dir := t.TempDir()
	want := lockstep(t, 0, pathRun(arch, local, filepath.Join(dir, "undisturbed"), 1)...).report().Hash
	out := filepath.Join(dir, "run")
	for k, workers := range []int{2, 3} {
		args := pathRun(arch, data, out, workers, "--checkpoint-every", "3")
		if k > 0 {
			args = append(args, "--resume")
		}
		p := begin(t, settings, args...)
		p.line(fmt.Sprintf("checkpoint of step %d written", 3+3*k))
		crew := children(t, p)
		p.signal(syscall.SIGKILL)
		for _, pid := range crew {
			syscall.Kill(pid, syscall.SIGKILL) // fails for one that has died with its parent
			gone(t, pid)
		}
		p.wait(-1)
		if at := kept(t, out); at < uint64(3+3*k) || at >= epochSteps {
			t.Fatalf("killed with a checkpoint of step %d, want one within the epoch", at)
		}
	}
	r := begin(t, settings, pathRun(arch, data, out, 2, "--resume")...).wait(0).report()
	if r.Hash != want || r.Step != epochSteps+2 {
		t.Errorf("killed twice: step %d, hash %s, want %s", r.Step, r.Hash, want)
	}
	var used ledgerReport
	begin(t, settings, "data", "ledger", "--json", out).wait(0).lastLine(&used)
	if used.First != 1 || used.Last != epochSteps+2 || used.Images != 60 {
		t.Errorf("the ledger proves %+v", used)
	}
}

// TestKilledWithinAnEpoch: each sample is used once an epoch, whatever happens to the processes.
func TestKilledWithinAnEpoch(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "images.tar")
	archive(t, data, func(_ string, b []byte) []byte { return b })
	arch := "resnet18"
	if testing.Short() {
		arch = tiny
	}
	killedTwice(t, arch, data, data, nil)
}

// badS3 serves an object as S3 does, and spoils every third request: with an error, a connection that breaks, an answer that ends early or comes
// drop by drop, and once with one that never comes.
type badS3 struct {
	http.Handler
	asked, spoilt atomic.Int32
}

func (s *badS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(s.asked.Add(1))
	if n%3 != 1 || r.Method != http.MethodGet {
		s.Handler.ServeHTTP(w, r)
		return
	}
	switch kind := s.spoilt.Add(1); {
	case kind == 5:
		<-r.Context().Done() // the client gives up
	case kind%4 == 1:
		http.Error(w, "<Error><Code>InternalError</Code></Error>", http.StatusInternalServerError)
	case kind%4 == 2:
		panic(http.ErrAbortHandler)
	default:
		whole := httptest.NewRecorder()
		s.Handler.ServeHTTP(whole, r)
		maps.Copy(w.Header(), whole.Header())
		w.WriteHeader(whole.Code)
		b := whole.Body.Bytes()
		if kind%4 == 3 {
			w.Write(b[:len(b)/2]) // the client may have gone
			panic(http.ErrAbortHandler)
		}
		for piece := range slices.Chunk(b, 1+len(b)/50) {
			w.Write(piece) // likewise
			w.(http.Flusher).Flush()
			select { // slow on purpose
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// TestDataFromBadS3: neither processes that die nor a server that errs changes weights or samples.
func TestDataFromBadS3(t *testing.T) {
	t.Parallel()
	local := filepath.Join(t.TempDir(), "images.tar")
	archive(t, local, func(_ string, b []byte) []byte { return b })
	backend := s3mem.New()
	data := read(t, local)
	if err := backend.CreateBucket("data"); err != nil {
		t.Fatal(err)
	}
	if _, err := backend.PutObject("data", "sets/images.tar", nil, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	bad := &badS3{Handler: gofakes3.New(backend).Server()}
	server := httptest.NewServer(bad)
	defer server.Close()
	killedTwice(t, tiny, local, "s3://data/sets/images.tar?region=eu-north-1&use_path_style=true&endpoint="+server.URL,
		[]string{"AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=key", "AWS_EC2_METADATA_DISABLED=true"})
	if n := bad.spoilt.Load(); n < 9 {
		t.Errorf("only %d of %d requests were spoilt", n, bad.asked.Load())
	}
	t.Logf("%d of %d requests were spoilt", bad.spoilt.Load(), bad.asked.Load())
}

// TestEveryImageIsEvaluatedOnce: 15 test images in batches of 2, among workers that do not divide them.
func TestEveryImageIsEvaluatedOnce(t *testing.T) {
	t.Parallel()
	var losses []float64
	for workers := 1; workers <= 3; workers++ {
		p := lockstep(t, 0, pathRun(tiny, shared.images(), filepath.Join(t.TempDir(), "run"), workers, "--steps", "1", "--batch", "6")...)
		p.says("(15 images)")
		losses = append(losses, *p.report().TestLoss)
	}
	if len(slices.Compact(losses)) != 1 {
		t.Errorf("1 to 3 workers find the losses %v", losses)
	}
}

// TestDamageMetWhileTraining: an image that a later step meets ends the run on all workers, with the place of the trouble and what to do.
func TestDamageMetWhileTraining(t *testing.T) {
	t.Parallel()
	data := spoilt(t, "train/rings/007.jpg")
	out := filepath.Join(t.TempDir(), "run")
	p := lockstep(t, 1, pathRun(tiny, data, out, 2, "--checkpoint-every", "1")...)
	p.says(data, "train/rings/007.jpg", "at byte ", "replace it", "--skip-damaged", "--resume")
	step := kept(t, out)
	if step == 0 || step >= epochSteps {
		t.Fatalf("the newest checkpoint is of step %d, and the epoch had to meet the image", step)
	}
	r := lockstep(t, 0, pathRun(tiny, data, out, 2, "--resume", "--skip-damaged", "1")...).report()
	if !slices.Equal(r.Skipped, []string{"train/rings/007.jpg"}) || r.Step != epochSteps+2 {
		t.Errorf("going on without it: %+v", r)
	}
	lockstep(t, 0, "data", "ledger", out).says()
}
