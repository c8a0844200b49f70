package simulate

import (
	"container/heap"
	"time"
)

// queue is what is to happen, in order of time, and of when it was put in among equals.
type queue struct {
	items []item
	count uint64
}

type item struct {
	at  time.Duration
	seq uint64
	do  func()
}

// add has something happen at a time that is not past.
func (q *queue) add(at time.Duration, do func()) {
	q.count++
	heap.Push(q, item{at, q.count, do})
}

// next takes the first item.
func (q *queue) next() (item, bool) {
	if len(q.items) == 0 {
		return item{}, false
	}
	return heap.Pop(q).(item), true
}

func (q *queue) Len() int { return len(q.items) }
func (q *queue) Less(i, j int) bool {
	a, b := &q.items[i], &q.items[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (q *queue) Swap(i, j int) { q.items[i], q.items[j] = q.items[j], q.items[i] }
func (q *queue) Push(x any)    { q.items = append(q.items, x.(item)) }
func (q *queue) Pop() any {
	last := q.items[len(q.items)-1]
	q.items[len(q.items)-1] = item{}
	q.items = q.items[:len(q.items)-1]
	return last
}
