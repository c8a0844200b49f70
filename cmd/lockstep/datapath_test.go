package main

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
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

// A pathRun is a run that is about its data. It ends in its second epoch.
type pathRun struct {
	arch              string
	resolution, batch int
	images            int
	checkpointEvery   int
	patience          time.Duration
}

// tiny is for tests that are about something else than the network: 15 steps an epoch.
var tiny = pathRun{"cifar-resnet8", 32, 4, 60, 3, patience}

func (r pathRun) epoch() int { return r.images / r.batch }
func (r pathRun) steps() int { return r.epoch() + 2 }

func (r pathRun) args(data, out string, workers int, more ...string) []string {
	return append([]string{"train", "--json", "--arch", r.arch, "--resolution", strconv.Itoa(r.resolution), "--batch", strconv.Itoa(r.batch),
		"--replica-batch", strconv.Itoa(r.batch / 2), "--lr", "0.01", "--eval-every", "0", "--data", data, "--out", out,
		"--steps", strconv.Itoa(r.steps()), "--workers", strconv.Itoa(workers), "--keep", "1"}, more...)
}

// killedTwice kills everything of a run twice within its first epoch, goes on each time with other workers, and compares weights and
// samples with those of a run on files of this machine that nothing happened to.
func (r pathRun) killedTwice(t *testing.T, local, data string, settings []string) {
	t.Helper()
	dir := t.TempDir()
	want := begin(t, nil, r.args(local, filepath.Join(dir, "undisturbed"), 1)...).waitFor(0, r.patience).report().Hash
	out := filepath.Join(dir, "run")
	before := uint64(0)
	for k, workers := range []int{2, 3} {
		args := r.args(data, out, workers, "--checkpoint-every", strconv.Itoa(r.checkpointEvery))
		if k > 0 {
			args = append(args, "--resume")
		}
		p := begin(t, settings, args...)
		p.lineWithin("training begins at step", r.patience)
		crew := children(t, p) // looked up before there is any hurry
		p.lineWithin("checkpoint of step [0-9]+ written", r.patience)
		p.signal(syscall.SIGKILL)
		for _, pid := range crew {
			syscall.Kill(pid, syscall.SIGKILL) // fails for one that has died with its parent
			gone(t, pid)
		}
		p.wait(-1)
		got := kept(t, out)
		if got <= before || got >= uint64(r.epoch()) {
			t.Fatalf("killed with a checkpoint of step %d, want one after step %d within the epoch of %d steps", got, before, r.epoch())
		}
		before = got
	}
	end := begin(t, settings, r.args(data, out, 2, "--resume")...).waitFor(0, r.patience).report()
	if end.Hash != want || end.Step != uint64(r.steps()) {
		t.Errorf("killed twice: step %d, hash %s, want %s", end.Step, end.Hash, want)
	}
	var used ledgerReport
	begin(t, settings, "data", "ledger", "--json", out).wait(0).lastLine(&used)
	if used.First != 1 || used.Last != uint64(r.steps()) || used.Images != r.images {
		t.Errorf("the ledger proves %+v", used)
	}
}

// TestKilledWithinAnEpoch: each sample is used once an epoch, whatever happens to the processes.
func TestKilledWithinAnEpoch(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "images.tar")
	archive(t, data, func(_ string, b []byte) []byte { return b })
	r := tiny
	if !testing.Short() {
		r.arch = "resnet18"
	}
	r.killedTwice(t, data, data, nil)
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
	case kind == 5 && !testing.Short():
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
	tiny.fromBadS3(t, local)
}

// fromBadS3 has killedTwice done on data from such a server.
func (r pathRun) fromBadS3(t *testing.T, local string) {
	t.Helper()
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
	r.killedTwice(t, local, "s3://data/sets/images.tar?region=eu-north-1&use_path_style=true&endpoint="+server.URL,
		[]string{"AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=key", "AWS_EC2_METADATA_DISABLED=true"})
	if n := bad.spoilt.Load(); n < 9 {
		t.Errorf("only %d of %d requests were spoilt", n, bad.asked.Load())
	}
	t.Logf("%d of %d requests were spoilt", bad.spoilt.Load(), bad.asked.Load())
}

// TestDataSoak is the same at the size of real photographs: resnet18 on 4,000 of them. make data-soak runs it.
func TestDataSoak(t *testing.T) {
	if os.Getenv("LOCKSTEP_DATA_SOAK") == "" {
		t.Skip("takes a quarter of an hour: make data-soak")
	}
	path := sharedFile(t, "data/imagenette.tar")
	r := pathRun{"resnet18", 64, 32, 4000, 20, 30 * time.Minute}
	t.Run("file", func(t *testing.T) { r.killedTwice(t, path, path, nil) })
	t.Run("s3", func(t *testing.T) { r.fromBadS3(t, path) })
}

// TestEveryImageIsEvaluatedOnce: 15 test images in batches of 2, among workers that do not divide them.
func TestEveryImageIsEvaluatedOnce(t *testing.T) {
	t.Parallel()
	var losses []float64
	for workers := 1; workers <= 3; workers++ {
		p := lockstep(t, 0, tiny.args(shared.images(), filepath.Join(t.TempDir(), "run"), workers, "--steps", "1", "--batch", "6")...)
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
	p := lockstep(t, 1, tiny.args(data, out, 2, "--checkpoint-every", "1")...)
	p.says(data, "train/rings/007.jpg", "at byte ", "replace it", "--skip-damaged", "--resume")
	step := kept(t, out)
	if step == 0 || step >= uint64(tiny.epoch()) {
		t.Fatalf("the newest checkpoint is of step %d, and the epoch had to meet the image", step)
	}
	r := lockstep(t, 0, tiny.args(data, out, 2, "--resume", "--skip-damaged", "1")...).report()
	if !slices.Equal(r.Skipped, []string{"train/rings/007.jpg"}) || r.Step != uint64(tiny.steps()) {
		t.Errorf("going on without it: %+v", r)
	}
	lockstep(t, 0, "data", "ledger", out).says()
}
