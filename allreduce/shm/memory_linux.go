package shm

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	fileName = "lockstep-ring"
	// seals keep a peer from shrinking the file under a mapping, where reading
	// would end the process, and from undoing that.
	seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
)

func create(g Geometry) (*Outlet, error) {
	fd, err := memfd()
	if err != nil {
		return nil, fmt.Errorf("shm: memfd_create: %w", err)
	}
	file := os.NewFile(uintptr(fd), fileName)
	m, err := fill(fd, g)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	//bounded: a bell is heard until the peer is gone or the region closed
	hear, ring, err := os.Pipe() // payloads lent: heard there, rung here
	if err != nil {
		m.unmap()
		return nil, errors.Join(fmt.Errorf("shm: bell: %w", err), file.Close())
	}
	//bounded: heard until the peer is gone or the region closed
	heard, rung, err := os.Pipe() // slots freed: heard here, rung there
	if err != nil {
		m.unmap()
		return nil, errors.Join(fmt.Errorf("shm: bell: %w", err), file.Close(), hear.Close(), ring.Close())
	}
	o := Offer{
		geometry: g, pid: uint32(os.Getpid()), file: uint32(fd), token: newToken(),
		lentBell: descriptor(hear), freeBell: descriptor(rung),
	}
	o.describe(m.control)
	settle := func() {
		for _, f := range []*os.File{file, hear, rung} {
			_ = f.Close() // nothing is written through them here
		}
	}
	return newOutlet(o, m, &bell{file: ring}, &bell{file: heard}, settle), nil
}

// descriptor returns f's number without taking it from the poller, as Fd would.
func descriptor(f *os.File) (n uint32) {
	c, err := f.SyscallConn()
	if err == nil {
		err = c.Control(func(fd uintptr) { n = uint32(fd) })
	}
	if err != nil {
		panic("shm: an open pipe was expected to have a descriptor: " + err.Error())
	}
	return n
}

// memfd makes the file. Kernels before 6.3 do not know the flag that says it
// will never be executed; hardened newer ones insist on it.
func memfd() (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(fileName, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(fileName, flags)
	}
	return fd, err
}

// fill gives the file its size, its pages, its seals and a mapping.
func fill(fd int, g Geometry) (memory, error) {
	size := int64(g.size())
	if err := unix.Ftruncate(fd, size); err != nil {
		return memory{}, fmt.Errorf("shm: region of %d bytes: %w", size, err)
	}
	m, err := mapRegion(fd, g, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return memory{}, err
	}
	if err := populate(fd, m); err != nil {
		m.unmap()
		return memory{}, fmt.Errorf("shm: region of %d bytes: %w", size, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		m.unmap()
		return memory{}, fmt.Errorf("shm: seal: %w", err)
	}
	return m, nil
}

// populate has all pages made now: where there is no memory this fails, while a
// page that is missing when it is touched ends the process. Kernels before 5.14
// can do it for the file only, in small pages.
func populate(fd int, m memory) error {
	err := errors.Join(unix.Madvise(m.slots, unix.MADV_POPULATE_WRITE), unix.Madvise(m.control, unix.MADV_POPULATE_WRITE))
	if errors.Is(err, unix.EINVAL) {
		err = unix.Fallocate(fd, 0, 0, int64(m.geometry.size()))
	}
	return err
}

// mapRegion maps the slots as slotProt says, the control area for reading and writing.
func mapRegion(fd int, g Geometry, slotProt int) (memory, error) {
	slots, err := unix.Mmap(fd, 0, g.slots(), slotProt, unix.MAP_SHARED)
	if err != nil {
		return memory{}, fmt.Errorf("shm: map: %w", err)
	}
	// Advice: where it is not followed all is slower, not wrong.
	_ = unix.Madvise(slots, unix.MADV_HUGEPAGE)
	control, err := unix.Mmap(fd, int64(g.slots()), g.control(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return memory{}, errors.Join(fmt.Errorf("shm: map: %w", err), unix.Munmap(slots))
	}
	unmap := func() {
		// Fails only for a range that was never mapped.
		_, _ = unix.Munmap(slots), unix.Munmap(control)
	}
	return memory{geometry: g, control: control, slots: slots, unmap: unmap}, nil
}

// open finds the offered region, checks that it is the one meant, and finds its bells.
func open(o Offer) (*Inlet, error) {
	fd, err := openFile(o)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	m, err := mapRegion(fd, o.geometry, unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	// Saves faults later; before Linux 5.14 they come then.
	_ = unix.Madvise(m.slots, unix.MADV_POPULATE_READ)
	if err := o.describes(m.control); err != nil {
		m.unmap()
		return nil, err
	}
	arrive, err := openBell(o.pid, o.lentBell, unix.O_RDONLY)
	if err != nil {
		m.unmap()
		return nil, err
	}
	freed, err := openBell(o.pid, o.freeBell, unix.O_WRONLY)
	if err != nil {
		m.unmap()
		arrive.close()
		return nil, err
	}
	return &Inlet{mem: m, arrive: arrive, freed: freed}, nil
}

// reach opens descriptor fd of a process, if it is what is wanted. The peer
// names process and descriptor, so first only a handle is opened, which has no effect on
// devices or locks that may be there; what it shows is then opened for use.
func reach(pid, fd uint32, flags int, wanted func(name string) bool) (int, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	handle, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("shm: the offered memory cannot be reached from here: %s: %w", path, err)
	}
	defer unix.Close(handle)
	self := fmt.Sprintf("/proc/self/fd/%d", handle)
	name, err := os.Readlink(self)
	if err != nil || !wanted(name) {
		return -1, fmt.Errorf("shm: %s is %q, which is not part of a link", path, name)
	}
	got, err := unix.Open(self, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("shm: %s: %w", path, err)
	}
	return got, nil
}

func openBell(pid, fd uint32, flags int) (*bell, error) {
	got, err := reach(pid, fd, flags, func(name string) bool { return strings.HasPrefix(name, "pipe:[") })
	if err != nil {
		return nil, err
	}
	return &bell{file: os.NewFile(uintptr(got), "bell")}, nil
}

// openFile opens the file of an offer.
func openFile(o Offer) (int, error) {
	fd, err := reach(o.pid, o.file, unix.O_RDWR, func(name string) bool { return strings.HasPrefix(name, "/memfd:"+fileName) })
	if err != nil {
		return -1, err
	}
	if err := checkFile(fd, o.geometry); err != nil {
		return -1, errors.Join(fmt.Errorf("shm: the offered memory %w", err), unix.Close(fd))
	}
	return fd, nil
}

// checkFile wants the size that was offered and the seals that keep it so.
func checkFile(fd int, g Geometry) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Size != int64(g.size()) {
		return fmt.Errorf("has %d bytes, %d were offered", st.Size, g.size())
	}
	got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("seals: %w", err)
	}
	if got&seals != seals {
		return fmt.Errorf("its size is not sealed (seals %#x, need %#x)", got, seals)
	}
	return nil
}
