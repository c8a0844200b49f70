// Package journal keeps a coordinator's decisions on disk: each is safe there before it is acted on, so that a coordinator that dies can
// be followed by another that knows them.
//
// A journal is one file that only grows: a header, then records of
//
//	length uint32 | CRC-32C of the length uint32 | CRC-32C of the JSON uint32 | JSON of a coordinator.Entry
//
// in little-endian order. A crash can leave the last record unfinished. That one was
// never acted on, and Open cuts it off. Damage anywhere else is an error that names the place.
package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Name is a journal's file name in the folder of its run.
const Name = "journal"

const (
	magic     = "lockstep journal 1\n"
	headBytes = 12
	// maxRecord bounds a record: a plan names a few thousand workers at most, and a rate for every step of a long warm-up.
	maxRecord = 16 << 20
	// maxFile bounds what is read: a run of months makes some ten thousand plans.
	maxFile = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFenced says that another coordinator has taken the run over.
var ErrFenced = errors.New("another coordinator has taken the run over")

// ErrDamaged is wrapped by errors about a journal that does not read.
var ErrDamaged = errors.New("the journal is damaged")

// Journal is an open one. It is used by one goroutine.
type Journal struct {
	fsys   vfs.FS
	path   string
	file   vfs.EditFile
	size   int64 // as this coordinator left it
	epoch  uint64
	spoilt int64 // where an entry that failed may end that is still there; 0 for none
}

// Opened is what a journal held.
type Opened struct {
	Entries []coordinator.Entry
	Run     string // of its newest coordinator; empty for a new journal
	Epoch   uint64 // of the coordinator that has opened it: one more than the newest
	Over    bool   // the run had ended
	Cut     int64  // bytes of a record that was never finished, now gone
}

// Open opens the journal at path, or begins one. The caller holds the run's lock, where the storage knows locks; where it does not, the
// epochs in the journal keep two coordinators apart.
func Open(fsys vfs.FS, path string) (*Journal, Opened, error) {
	data, err := read(fsys, path)
	if err != nil {
		return nil, Opened{}, err
	}
	o, good, err := parse(data)
	if err != nil {
		return nil, o, fmt.Errorf("%s: %w; to go on from the newest checkpoint instead, move the journal away", path, err)
	}
	o.Cut = int64(len(data)) - good
	f, err := fsys.Edit(path, 0o644)
	if err != nil {
		return nil, o, err
	}
	j := &Journal{fsys: fsys, path: path, file: f, size: good, epoch: o.Epoch}
	if err := j.begin(); err != nil {
		return nil, o, errors.Join(err, f.Close())
	}
	return j, o, nil
}

// read gives the whole file, nothing if there is none.
func read(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: %w: it is larger than %d bytes", path, ErrDamaged, maxFile)
	}
	return data, err
}

// begin cuts off what was never finished and makes file and header safe.
func (j *Journal) begin() error {
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	if j.size == 0 {
		n, err := j.file.WriteAt([]byte(magic), 0)
		if err != nil {
			return fmt.Errorf("%s: %w", j.path, err)
		}
		j.size = int64(n)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	return j.fsys.SyncDir(filepath.Dir(j.path))
}

// parse reads a journal and says how many of its bytes are whole records. It takes any bytes.
func parse(data []byte) (o Opened, good int64, err error) {
	o.Epoch = 1
	if len(data) < len(magic) && bytes.HasPrefix([]byte(magic), data) {
		return o, 0, nil // new, or its very beginning was cut short
	}
	if !bytes.HasPrefix(data, []byte(magic)) {
		return o, 0, fmt.Errorf("%w: it does not begin as a journal of this version does", ErrDamaged)
	}
	at := len(magic)
	for at < len(data) {
		n, entry, err := record(data[at:])
		if err != nil {
			return o, 0, fmt.Errorf("%w at byte %d: %w", ErrDamaged, at, err)
		}
		if n == 0 {
			break
		}
		at += n
		o.take(entry)
	}
	return o, int64(at), nil
}

// record reads one record. It gives length 0 for one that was not finished, which only the last can be.
func record(data []byte) (n int, e coordinator.Entry, err error) {
	if len(data) < headBytes || zero(data) { // some file systems lengthen a file before its bytes are there
		return 0, e, nil
	}
	size := binary.LittleEndian.Uint32(data)
	if crc32.Checksum(data[:4], castagnoli) != binary.LittleEndian.Uint32(data[4:]) || size == 0 || size > maxRecord {
		return 0, e, errors.New("a record's length is not what was written")
	}
	end := headBytes + int(size)
	if len(data) < end {
		return 0, e, nil
	}
	body := data[headBytes:end]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(data[8:]) {
		if len(data) == end || zero(data[end:]) {
			return 0, e, nil
		}
		return 0, e, errors.New("a record's checksum is wrong")
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return 0, e, fmt.Errorf("a record does not parse: %w", err)
	}
	if n := decisions(e); n != 1 {
		return 0, e, fmt.Errorf("a record has %d decisions that this version knows, want one", n)
	}
	return end, e, nil
}

// decisions counts the fields of an entry that are set.
func decisions(e coordinator.Entry) int {
	n := 0
	for v, i := reflect.ValueOf(e), 0; i < v.NumField(); i++ {
		if !v.Field(i).IsNil() {
			n++
		}
	}
	return n
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 }) }

// take notes an entry.
func (o *Opened) take(e coordinator.Entry) {
	o.Entries = append(o.Entries, e)
	if e.Epoch != nil {
		o.Run, o.Over = e.Epoch.Run, false
		o.Epoch = max(o.Epoch, e.Epoch.Epoch+1)
	}
	if e.Over != nil {
		o.Over = true
	}
}

// Append writes an entry and returns once it is safe. An error means that it may not be acted on, and what was there before stays; the
// same entry may be tried again. An error that wraps ErrFenced means that this coordinator may decide nothing any more.
func (j *Journal) Append(e coordinator.Entry) error {
	if err := j.mend(); err != nil {
		return err
	}
	if err := j.fence(j.size); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	b, err := encode(e)
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	end := j.size + int64(len(b))
	err = j.write(b)
	if err == nil {
		err = j.fence(end) // another may have written at the same moment
	}
	if err != nil {
		j.spoilt = end
		return errors.Join(fmt.Errorf("%s: %w", j.path, err), j.mend())
	}
	j.size = end
	return nil
}

// encode makes an entry's record.
func encode(e coordinator.Entry) ([]byte, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if len(body) > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes, at most %d are written", len(body), maxRecord)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	return append(b, body...), nil
}

func (j *Journal) write(b []byte) error {
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		return err
	}
	return j.file.Sync()
}

// mend cuts off what an entry that failed has left behind, unless somebody else has written behind that.
func (j *Journal) mend() error {
	if j.spoilt == 0 {
		return nil
	}
	info, err := j.file.Stat()
	if err == nil && info.Size() <= j.spoilt {
		err = j.file.Truncate(j.size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	j.spoilt = 0
	return nil
}

// fence looks whether the file has the size that this coordinator left it with, and is the one under that name.
func (j *Journal) fence(size int64) error {
	open, err := j.file.Stat()
	if err != nil {
		return err
	}
	named, err := stat(j.fsys, j.path)
	if err != nil {
		return fmt.Errorf("the journal is gone or unreadable: %w", err)
	}
	if !os.SameFile(open, named) {
		return fmt.Errorf("%w: it has put another journal there", ErrFenced)
	}
	if named.Size() == size {
		return nil
	}
	data, err := read(j.fsys, j.path)
	if err != nil {
		return err
	}
	o, _, err := parse(data)
	if err != nil {
		return fmt.Errorf("something else has written to it: %w", err)
	}
	return fmt.Errorf("%w: it is coordinator %d, this one was coordinator %d", ErrFenced, o.Epoch-1, j.epoch)
}

// stat describes the file that now has that name.
func stat(fsys vfs.FS, path string) (fs.FileInfo, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	return info, errors.Join(err, f.Close())
}

// Close closes the file; nothing is left to be written.
func (j *Journal) Close() error { return j.file.Close() }
