package waits

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// A fault is a place and what waits there without a bound.
type fault struct {
	at   token.Position
	what string
}

// A finder goes through one package.
type finder struct {
	*pkg
	set   *token.FileSet
	said  *directives
	stack []ast.Node // from the file down to the node that is looked at
	out   []fault
}

// find lists the waits of a package that neither have a bound to be seen nor say what ends them.
func find(set *token.FileSet, p *pkg, said *directives) []fault {
	f := &finder{pkg: p, set: set, said: said}
	for _, file := range p.files {
		if ast.IsGenerated(file) {
			continue // stubs, whose callers are looked at
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if n == nil {
				f.stack = f.stack[:len(f.stack)-1]
				return true
			}
			f.stack = append(f.stack, n)
			f.look(n)
			return true
		})
	}
	return f.out
}

// fault reports a wait unless a comment at its place bounds it.
func (f *finder) fault(n ast.Node, what string) {
	if at := f.set.Position(n.Pos()); !f.said.cover(at) {
		f.out = append(f.out, fault{at, what})
	}
}

func (f *finder) look(n ast.Node) {
	switch n := n.(type) {
	case *ast.SendStmt:
		if !f.isComm(n) && !f.hasRoom(n) {
			f.fault(n, "a send waits for a receiver: select with an end, or a channel with room for all that is sent")
		}
	case *ast.UnaryExpr:
		if n.Op == token.ARROW && !f.isComm(n) && !f.isTimed(n.X) {
			f.fault(n, "a receive waits for a sender: select with an end")
		}
	case *ast.SelectStmt:
		if !slices.ContainsFunc(n.Body.List, f.ends) {
			f.fault(n, "a select has no default and no case that ends it: a context's Done, a timer, or a channel whose declaration says what closes it")
		}
	case *ast.RangeStmt:
		if _, ok := f.info.TypeOf(n.X).Underlying().(*types.Chan); ok {
			f.fault(n, "a loop takes from a channel until that is closed")
		}
	case *ast.SelectorExpr:
		f.name(n)
	case *ast.CompositeLit:
		f.literal(n)
	case *ast.CallExpr:
		f.handsOver(n)
	}
}

// parent gives what the node that is looked at stands in, n levels up.
func (f *finder) parent(n int) ast.Node {
	if i := len(f.stack) - 1 - n; i >= 0 {
		return f.stack[i]
	}
	return nil
}

// function is the outermost function that the node stands in; nil at package level.
func (f *finder) function() *ast.FuncDecl {
	for _, n := range f.stack {
		if d, ok := n.(*ast.FuncDecl); ok {
			return d
		}
	}
	return nil
}

// isComm says whether a channel operation is a case of a select, which is judged as a whole.
func (f *finder) isComm(n ast.Node) bool {
	for i := range f.stack {
		c, ok := f.stack[i].(*ast.CommClause)
		if !ok || c.Comm == nil {
			continue
		}
		switch s := c.Comm.(type) {
		case *ast.SendStmt:
			return ast.Node(s) == n
		case *ast.ExprStmt:
			if ast.Unparen(s.X) == n {
				return true
			}
		case *ast.AssignStmt:
			if ast.Unparen(s.Rhs[0]) == n {
				return true
			}
		}
	}
	return false
}

// ends says whether a case of a select bounds its wait.
func (f *finder) ends(clause ast.Stmt) bool {
	var received ast.Expr
	switch s := clause.(*ast.CommClause).Comm.(type) {
	case nil:
		return true // default
	case *ast.ExprStmt:
		received = s.X
	case *ast.AssignStmt:
		received = s.Rhs[0]
	default:
		return false
	}
	ch := ast.Unparen(received).(*ast.UnaryExpr).X
	return f.isTimed(ch) || f.isEnd(ch)
}

// isTimed says whether a channel gives something by a certain time: a timer's, a ticker's, or the Done of a
// context with a deadline.
func (f *finder) isTimed(ch ast.Expr) bool {
	c, ok := f.info.TypeOf(ch).Underlying().(*types.Chan)
	if ok && c.Elem().String() == "time.Time" {
		return true
	}
	ctx := f.doneOf(ch)
	return ctx != nil && f.hasDeadline(ctx)
}

// doneOf gives the context whose Done an expression calls.
func (f *finder) doneOf(e ast.Expr) ast.Expr {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	if !ok {
		return nil
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Done" || !hasMethods(f.info.TypeOf(s.X), "Deadline", "Done", "Err", "Value") {
		return nil
	}
	return s.X
}

// isEnd says whether a channel is one that somebody closes to end waits: a context's Done, a variable that holds one, or a channel or
// function whose declaration says so.
func (f *finder) isEnd(ch ast.Expr) bool {
	if f.doneOf(ch) != nil {
		return true
	}
	obj := f.object(ch)
	if obj == nil {
		return false
	}
	if f.said.cover(f.set.Position(obj.Pos())) {
		return true
	}
	return slices.ContainsFunc(f.assigned(obj), func(e ast.Expr) bool { return f.doneOf(e) != nil })
}

// object gives the variable, field or function that an expression names, through index and call.
func (f *finder) object(e ast.Expr) types.Object {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		return f.info.ObjectOf(e)
	case *ast.SelectorExpr:
		return f.info.ObjectOf(e.Sel)
	case *ast.IndexExpr:
		return f.object(e.X)
	case *ast.CallExpr:
		return f.object(e.Fun)
	}
	return nil
}

// assigned lists what the function around gives a local variable.
func (f *finder) assigned(obj types.Object) []ast.Expr {
	var out []ast.Expr
	fn := f.function()
	if fn == nil {
		return nil
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if id, ok := left.(*ast.Ident); ok && f.info.ObjectOf(id) == obj {
					out = append(out, n.Rhs[min(i, len(n.Rhs)-1)])
				}
			}
		case *ast.ValueSpec:
			for i, id := range n.Names {
				if f.info.ObjectOf(id) == obj && len(n.Values) > 0 {
					out = append(out, n.Values[min(i, len(n.Values)-1)])
				}
			}
		}
		return true
	})
	return out
}

// hasRoom says whether a send goes to a local channel that has room for all that is ever sent: made with constant room, as many sends
// as that in the function, none in a loop that the channel is not in, and the channel not handed on for sending.
func (f *finder) hasRoom(s *ast.SendStmt) bool {
	id, ok := ast.Unparen(s.Chan).(*ast.Ident)
	if !ok || f.function() == nil {
		return false
	}
	obj := f.info.ObjectOf(id)
	made := f.assigned(obj)
	if len(made) != 1 {
		return false
	}
	room := f.roomOf(made[0])
	sends, known := f.sends(obj, made[0])
	return known && sends <= room
}

// roomOf gives the constant capacity of a make expression, 0 for any other.
func (f *finder) roomOf(e ast.Expr) int64 {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) != 2 || types.ExprString(call.Fun) != "make" {
		return 0
	}
	v := f.info.Types[call.Args[1]].Value
	if v == nil {
		return 0
	}
	n, _ := constant.Int64Val(v)
	return n
}

// sends counts the sends to a local channel; known is false if one may run more than once for each make, or stands elsewhere.
func (f *finder) sends(obj types.Object, made ast.Expr) (n int64, known bool) {
	known = true
	var stack []ast.Node
	ast.Inspect(f.function(), func(x ast.Node) bool {
		if x == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		if id, ok := x.(*ast.Ident); ok && f.info.Uses[id] == obj {
			sent, safe := f.useOf(id, stack)
			if sent {
				n++
				known = known && !loops(stack, made)
			}
			known = known && safe
		}
		stack = append(stack, x)
		return true
	})
	return n, known
}

// useOf says whether a use of a channel is a send, and whether nobody else gets to send by it.
func (f *finder) useOf(id *ast.Ident, stack []ast.Node) (sent, safe bool) {
	switch p := stack[len(stack)-1].(type) {
	case *ast.SendStmt:
		return p.Chan == ast.Expr(id), p.Chan == ast.Expr(id)
	case *ast.UnaryExpr:
		return false, p.Op == token.ARROW
	case *ast.RangeStmt:
		return false, true
	case *ast.CallExpr:
		if fn, ok := p.Fun.(*ast.Ident); ok {
			if _, builtin := f.info.ObjectOf(fn).(*types.Builtin); builtin {
				return false, true
			}
		}
		sig, ok := f.info.TypeOf(p.Fun).Underlying().(*types.Signature)
		i := slices.Index(p.Args, ast.Expr(id))
		if !ok || i < 0 || i >= sig.Params().Len() {
			return false, false
		}
		ch, ok := sig.Params().At(i).Type().Underlying().(*types.Chan)
		return false, ok && ch.Dir() == types.RecvOnly
	}
	return false, false
}

// loops says whether what stands at the end of the stack may run more than once for one run of made: it is in a loop that made is not in, or in a
// function literal, which may be called often, unless it is started at once by go, defer or a group.
func loops(stack []ast.Node, made ast.Node) bool {
	for i, n := range stack {
		inside := n.Pos() <= made.Pos() && made.End() <= n.End()
		if inside {
			continue
		}
		switch n.(type) {
		case *ast.ForStmt, *ast.RangeStmt:
			return true
		case *ast.FuncLit:
			call, ok := stack[i-1].(*ast.CallExpr)
			if !ok || !startsAtOnce(call, n) {
				return true
			}
		}
	}
	return false
}

// startsAtOnce says whether a call runs a function literal once: func() {...}(), or group.Go(func() {...}).
func startsAtOnce(call *ast.CallExpr, lit ast.Node) bool {
	if ast.Node(call.Fun) == lit {
		return true
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (s.Sel.Name == "Go" || strings.HasPrefix(s.Sel.Name, "AfterFunc"))
}
