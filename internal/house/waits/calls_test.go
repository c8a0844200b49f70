package waits

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// A known is a function that waits: what for, and how to see in a call that it has a bound. A nil proof means that none can be seen.
type known struct {
	what  string
	bound func(f *finder, call *ast.CallExpr) bool
}

const (
	unixPackage = "golang.org/x/sys/unix"
	grpcPackage = "google.golang.org/grpc"
)

var (
	child  = known{"waits for a child process: make it with exec.CommandContext and set its WaitDelay", (*finder).childEnds}
	pipe   = known{"gives an end of a pipe, whose reads wait for the other end", nil}
	noDial = known{"dials without a deadline: use a Dialer with DialContext or Timeout", nil}
	client = known{"uses a client of HTTP without a timeout: make one, with a Timeout", nil}
	serves = known{"serves until somebody ends it", nil}
)

// knowns are functions by their full names, as go/types gives them.
var knowns = map[string]known{
	"(*sync.WaitGroup).Wait":                   {"waits for all of a group", nil},
	"(*sync.Cond).Wait":                        {"waits for a signal", nil},
	"(*golang.org/x/sync/errgroup.Group).Wait": {"waits for all of a group", nil},

	"(*os/exec.Cmd).Wait":           child,
	"(*os/exec.Cmd).Run":            child,
	"(*os/exec.Cmd).Output":         child,
	"(*os/exec.Cmd).CombinedOutput": child,
	"(*os/exec.Cmd).StdoutPipe":     pipe,
	"(*os/exec.Cmd).StderrPipe":     pipe,
	"(*os/exec.Cmd).StdinPipe":      pipe,
	"(*os.Process).Wait":            {"waits for a process", nil},
	"io.Pipe":                       pipe,
	"os.Pipe":                       pipe,

	"net.Dial":           noDial,
	"net.DialTCP":        noDial,
	"net.DialUDP":        noDial,
	"net.DialUnix":       noDial,
	"net.DialIP":         noDial,
	"crypto/tls.Dial":    noDial,
	"(*net.Dialer).Dial": {noDial.what, (*finder).dialerTimesOut},

	"net/http.Get":                               client,
	"net/http.Head":                              client,
	"net/http.Post":                              client,
	"net/http.PostForm":                          client,
	"net/http.ListenAndServe":                    serves,
	"net/http.ListenAndServeTLS":                 serves,
	"net/http.Serve":                             serves,
	"(*net/http.Server).Serve":                   serves,
	"(*net/http.Server).ListenAndServe":          serves,
	"(*" + grpcPackage + ".Server).Serve":        serves,
	"(*" + grpcPackage + ".Server).GracefulStop": {"waits for all calls to end", nil},

	"time.Sleep":      {"sleeps in a loop that nothing seen here ends", (*finder).loopEnds},
	"runtime.Gosched": {"spins in a loop that nothing seen here ends", (*finder).loopEnds},

	"syscall.Flock":                 {"waits for a lock on a file: add LOCK_NB", (*finder).lockNotAwaited},
	unixPackage + ".Flock":          {"waits for a lock on a file: add LOCK_NB", (*finder).lockNotAwaited},
	unixPackage + ".Poll":           {"polls without a timeout that is a constant", lastArgumentNotNegative},
	unixPackage + ".EpollWait":      {"polls without a timeout that is a constant", lastArgumentNotNegative},
	unixPackage + ".Ppoll":          {"polls", nil},
	unixPackage + ".Select":         {"polls", nil},
	unixPackage + ".Pselect":        {"polls", nil},
	unixPackage + ".Wait4":          {"waits for a process", nil},
	unixPackage + ".Waitid":         {"waits for a process", nil},
	"syscall.Wait4":                 {"waits for a process", nil},
	"syscall.Select":                {"polls", nil},
	"syscall.Syscall":               {"calls the system to wait", (*finder).systemDoesNotWait},
	"syscall.Syscall6":              {"calls the system to wait", (*finder).systemDoesNotWait},
	"syscall.RawSyscall":            {"calls the system to wait", (*finder).systemDoesNotWait},
	"syscall.RawSyscall6":           {"calls the system to wait", (*finder).systemDoesNotWait},
	unixPackage + ".Syscall":        {"calls the system to wait", (*finder).systemDoesNotWait},
	unixPackage + ".Syscall6":       {"calls the system to wait", (*finder).systemDoesNotWait},
	unixPackage + ".RawSyscall":     {"calls the system to wait", (*finder).systemDoesNotWait},
	unixPackage + ".RawSyscall6":    {"calls the system to wait", (*finder).systemDoesNotWait},
	unixPackage + ".SyscallNoError": {"calls the system to wait", (*finder).systemDoesNotWait},
	"context.Background":            {"is a context that never ends: give it a deadline, or take the caller's", (*finder).contextEnds},
	"context.TODO":                  {"is a context that never ends: give it a deadline, or take the caller's", (*finder).contextEnds},
	"context.WithoutCancel":         {"is a context that never ends: give it a deadline", (*finder).contextEnds},
}

// name looks at PACKAGE.Function, VALUE.Method and PACKAGE.Variable, called or not.
func (f *finder) name(s *ast.SelectorExpr) {
	switch obj := f.info.Uses[s.Sel].(type) {
	case *types.Var:
		switch {
		case obj.Pkg() == nil || obj.IsField():
		case obj.Pkg().Path() == "net/http" && obj.Name() == "DefaultClient":
			f.fault(s, "http.DefaultClient "+client.what)
		case obj.Pkg().Path() == "os" && obj.Name() == "Stdin":
			f.fault(s, "os.Stdin waits for whoever types")
		}
	case *types.Func:
		call, ok := f.parent(1).(*ast.CallExpr)
		if !ok || call.Fun != ast.Expr(s) {
			call = nil
		}
		if k, ok := knowns[obj.FullName()]; ok {
			if call == nil || k.bound == nil || !k.bound(f, call) {
				f.fault(s, types.ExprString(s)+" "+k.what)
			}
			return
		}
		f.method(s, obj, call)
	}
}

// method looks at methods that are known by the kind of their receiver.
func (f *finder) method(s *ast.SelectorExpr, fn *types.Func, call *ast.CallExpr) {
	sig := fn.Signature()
	if sig.Recv() == nil {
		return
	}
	on, name := f.info.TypeOf(s.X), fn.Name()
	switch {
	case isConn(on) && slices.Contains([]string{"Read", "Write", "ReadFrom", "WriteTo", "Handshake"}, name):
		if !f.setsDeadline() {
			f.fault(s, types.ExprString(s)+" waits for the other end: set a deadline in this function, or in a method of its type")
		}
	case hasMethods(on, "Accept", "Close", "Addr") && strings.HasPrefix(name, "Accept"):
		f.fault(s, types.ExprString(s)+" waits for somebody to connect")
	case isStream(on) && slices.Contains([]string{"Recv", "Send", "RecvMsg", "SendMsg", "CloseAndRecv", "SendAndClose", "Header"}, name):
		if !f.streamEnds(s.X) {
			f.fault(s, types.ExprString(s)+" waits for the other end of a stream: open it with a context that has a deadline")
		}
	case isRemote(sig):
		if call == nil || !f.hasDeadline(call.Args[0]) {
			f.fault(s, types.ExprString(s)+" calls a server: give it a context with a deadline, made in this function")
		}
	}
}

// isRemote says whether a method is one of a gRPC client: a context first, options of calls last.
func isRemote(sig *types.Signature) bool {
	n := sig.Params().Len()
	if !sig.Variadic() || n < 2 || !hasMethods(sig.Params().At(0).Type(), "Deadline", "Done", "Err", "Value") {
		return false
	}
	return strings.HasSuffix(sig.Params().At(n-1).Type().String(), grpcPackage+".CallOption")
}

// literal looks at clients and servers of HTTP that are made without timeouts.
func (f *finder) literal(lit *ast.CompositeLit) {
	need := map[string][]string{
		"net/http.Client": {"Timeout"},
		"net/http.Server": {"ReadHeaderTimeout", "ReadTimeout", "WriteTimeout", "IdleTimeout"},
	}[f.info.TypeOf(lit).String()]
	for _, field := range need {
		if !hasField(lit, field) {
			f.fault(lit, types.ExprString(lit.Type)+" has no "+field)
		}
	}
}

func hasField(lit *ast.CompositeLit, name string) bool {
	return slices.ContainsFunc(lit.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		return ok && types.ExprString(kv.Key) == name
	})
}

// handsOver finds connections that are given to readers and writers that know no deadlines: io.Copy, bufio.NewReader.
func (f *finder) handsOver(call *ast.CallExpr) {
	sig, ok := f.info.TypeOf(call.Fun).Underlying().(*types.Signature)
	if !ok {
		return
	}
	for i, arg := range call.Args {
		if i >= sig.Params().Len() || !isConn(f.info.TypeOf(arg)) {
			continue
		}
		to := sig.Params().At(i).Type()
		reads := hasMethods(to, "Read") || hasMethods(to, "Write")
		if types.IsInterface(to) && reads && !hasMethods(to, "SetDeadline") && !f.setsDeadline() {
			f.fault(call, types.ExprString(call.Fun)+" reads or writes a connection: set a deadline in this function, or in a method of its type")
		}
	}
}

// setsDeadline says whether the function around sets a deadline, or another method of its receiver's type does.
func (f *finder) setsDeadline() bool {
	fn := f.function()
	if fn == nil {
		return false
	}
	bodies := []ast.Node{fn}
	for _, file := range f.files {
		for _, d := range file.Decls {
			if m, ok := d.(*ast.FuncDecl); ok && f.receiver(m) != nil && f.receiver(m) == f.receiver(fn) {
				bodies = append(bodies, m)
			}
		}
	}
	return slices.ContainsFunc(bodies, func(n ast.Node) bool { return contains(n, isDeadline) })
}

// receiver gives the name of the type that a method belongs to, nil for a function.
func (f *finder) receiver(d *ast.FuncDecl) types.Object {
	if d.Recv == nil {
		return nil
	}
	t := f.info.TypeOf(d.Recv.List[0].Type)
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	named, ok := t.(*types.Named)
	if !ok {
		return nil
	}
	return named.Origin().Obj()
}

func isDeadline(n ast.Node) bool {
	s, ok := n.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"SetDeadline", "SetReadDeadline", "SetWriteDeadline"}, s.Sel.Name)
}

func contains(n ast.Node, is func(ast.Node) bool) (found bool) {
	ast.Inspect(n, func(x ast.Node) bool {
		found = found || (x != nil && is(x))
		return !found
	})
	return found
}

// hasMethods says whether a value of the type has all these methods.
func hasMethods(t types.Type, names ...string) bool {
	if t == nil {
		return false
	}
	set := types.NewMethodSet(t)
	if _, pointer := t.Underlying().(*types.Pointer); !pointer && !types.IsInterface(t) {
		set = types.NewMethodSet(types.NewPointer(t))
	}
	return !slices.ContainsFunc(names, func(name string) bool { return set.Lookup(nil, name) == nil })
}

func isConn(t types.Type) bool   { return hasMethods(t, "LocalAddr", "SetDeadline") }
func isStream(t types.Type) bool { return hasMethods(t, "RecvMsg", "SendMsg") }

// hasDeadline says whether a context is a variable that this function made with a deadline, or from one that was.
func (f *finder) hasDeadline(ctx ast.Expr) bool { return f.madeBy(ctx, 0) }

func (f *finder) madeBy(ctx ast.Expr, depth int) bool {
	id, ok := ast.Unparen(ctx).(*ast.Ident)
	if !ok || depth > 4 {
		return false
	}
	for _, e := range f.assigned(f.info.ObjectOf(id)) {
		call, ok := e.(*ast.CallExpr)
		if !ok {
			continue
		}
		fn, ok := f.object(call.Fun).(*types.Func)
		if !ok {
			continue
		}
		switch name := fn.FullName(); {
		case strings.HasPrefix(name, "context.WithTimeout"), strings.HasPrefix(name, "context.WithDeadline"):
			return true
		case strings.HasPrefix(name, "context.With"), strings.HasSuffix(name, "errgroup.WithContext"):
			if name != "context.WithoutCancel" && f.madeBy(call.Args[0], depth+1) {
				return true
			}
		}
	}
	return false
}

// streamEnds says whether a stream was opened in this function, with a context that has a deadline.
func (f *finder) streamEnds(stream ast.Expr) bool {
	id, ok := ast.Unparen(stream).(*ast.Ident)
	if !ok {
		return false
	}
	return slices.ContainsFunc(f.assigned(f.info.ObjectOf(id)), func(e ast.Expr) bool {
		call, ok := e.(*ast.CallExpr)
		return ok && len(call.Args) > 0 && f.hasDeadline(call.Args[0])
	})
}

// childEnds says whether a child process is killed when its context ends, and not waited for long after: CommandContext and WaitDelay.
func (f *finder) childEnds(call *ast.CallExpr) bool {
	id, ok := call.Fun.(*ast.SelectorExpr).X.(*ast.Ident)
	if !ok {
		return false
	}
	obj := f.info.ObjectOf(id)
	byContext := slices.ContainsFunc(f.assigned(obj), func(e ast.Expr) bool {
		c, ok := e.(*ast.CallExpr)
		return ok && f.object(c.Fun) != nil && f.object(c.Fun).Name() == "CommandContext"
	})
	return byContext && contains(f.function(), func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		return ok && s.Sel.Name == "WaitDelay" && f.object(s.X) == obj
	})
}

func (f *finder) dialerTimesOut(call *ast.CallExpr) bool {
	x := ast.Unparen(call.Fun.(*ast.SelectorExpr).X)
	if u, ok := x.(*ast.UnaryExpr); ok {
		x = u.X
	}
	lit, ok := x.(*ast.CompositeLit)
	return ok && (hasField(lit, "Timeout") || hasField(lit, "Deadline"))
}

// contextEnds says whether a context that never ends gets a deadline at once, or goes where nobody waits.
func (f *finder) contextEnds(*ast.CallExpr) bool {
	outer, ok := f.parent(2).(*ast.CallExpr)
	if !ok {
		return false
	}
	fn, ok := f.object(outer.Fun).(*types.Func)
	if !ok {
		return false
	}
	name := fn.FullName()
	return strings.HasPrefix(name, "context.WithTimeout") || strings.HasPrefix(name, "context.WithDeadline") || strings.Contains(name, "log/slog.")
}

// loopEnds says whether a sleep stands in no loop, in one that counts or ranges, or in one that asks a context or the clock.
func (f *finder) loopEnds(call *ast.CallExpr) bool {
	for _, n := range slices.Backward(f.stack) {
		loop, ok := n.(*ast.ForStmt)
		if !ok || loop.Post != nil {
			continue
		}
		if !contains(loop, f.asks) {
			return false
		}
	}
	return true
}

// asks says whether a node asks if the time is over: ctx.Err(), ctx.Done(), time.Since, time.Until, t.After, t.Before.
func (f *finder) asks(n ast.Node) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	fn, ok := f.info.Uses[s.Sel].(*types.Func)
	return ok && slices.Contains([]string{"(context.Context).Err", "(context.Context).Done", "time.Since", "time.Until", "(time.Time).After", "(time.Time).Before"}, fn.FullName())
}

// lockNotAwaited says whether a lock is given up at once when somebody else has it.
func (f *finder) lockNotAwaited(call *ast.CallExpr) bool {
	return contains(call.Args[1], func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		return ok && id.Name == "LOCK_NB"
	})
}

func lastArgumentNotNegative(f *finder, call *ast.CallExpr) bool {
	v := f.info.Types[call.Args[len(call.Args)-1]].Value
	return v != nil && constant.Compare(v, token.GEQ, constant.MakeInt64(0))
}

// systemDoesNotWait says whether a raw system call is none of those that wait.
func (f *finder) systemDoesNotWait(call *ast.CallExpr) bool {
	obj := f.object(call.Args[0])
	if obj == nil {
		return false
	}
	return !slices.ContainsFunc([]string{"FUTEX", "POLL", "SELECT", "WAIT", "ACCEPT", "CONNECT", "RECV", "NANOSLEEP"}, func(part string) bool {
		return strings.Contains(obj.Name(), part)
	})
}
