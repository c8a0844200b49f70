package gossip

// Kind tells what an Event says about a member.
type Kind uint8

// The kinds of event.
const (
	Joined Kind = iota + 1
	Updated
	Left // it said so
	Dead // it stopped answering
)

func (k Kind) String() string {
	switch k {
	case Joined:
		return "joined"
	case Updated:
		return "updated"
	case Left:
		return "left"
	case Dead:
		return "dead"
	}
	return "unknown"
}

// Event is a change in the cluster, as this node sees it. It is a hint, not agreement: another node may see otherwise.
type Event struct {
	Kind Kind
	Name string
	Role Role
}

// Role is what a member is in the cluster.
type Role string

// The roles.
const (
	Coordinator Role = "coordinator"
	Worker      Role = "worker"
)
