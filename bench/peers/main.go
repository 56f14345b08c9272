// The Go peer: reads a CT map over cilium/ebpf, and prints it as Cilium does, a Sprintf an entry into a strings.Builder.
//
//	peer PIN structs CHUNK    batches into slices of structs, as the library at hand decodes them
//	peer PIN batch CHUNK      batches, each array copied at once: what newer versions of the library make of such slices
//	peer PIN next-key         NextKey and Lookup
//	peer PIN list CHUNK       as batch, and the text of every entry to the standard output
//	peer PIN collect-...      deletes what has expired: see collect.go
//
// The first three print entries, nanoseconds, and the nanoseconds of CPU of the longest batch.
//
// For Go 1.19 and cilium/ebpf 0.9.1, the versions of Debian 12.
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

type tuple struct {
	Daddr, Saddr [4]byte
	// Big endian.
	Dport, Sport [2]byte
	Nexthdr      uint8
	Flags        uint8
}

type entry struct {
	Reserved0        uint64
	BackendID        uint64
	Packets          uint64
	Bytes            uint64
	Lifetime         uint32
	Flags            uint16
	RevNat           [2]byte
	IfIndex          uint16
	TxFlagsSeen      uint8
	RxFlagsSeen      uint8
	SourceSecurityID uint32
	LastTxReport     uint32
	LastRxReport     uint32
}

const (
	in      = 1
	related = 2
	service = 4
)

// Slices that take a whole array of the kernel's as it is.
type tuples []tuple
type entries []entry

func (t tuples) UnmarshalBinary(from []byte) error {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&t[0])), len(t)*int(unsafe.Sizeof(t[0]))), from)
	return nil
}

func (e entries) UnmarshalBinary(from []byte) error {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&e[0])), len(e)*int(unsafe.Sizeof(e[0]))), from)
	return nil
}

// Of the longest batch: how long it held a CPU, whatever else the machine did.
var longest int64

// Nanoseconds of CPU of this thread, which the main goroutine keeps.
func cpu() int64 {
	const clockThreadCPUTime = 3
	var at syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&at)), 0)
	return at.Nano()
}

func called(since int64) {
	if took := cpu() - since; took > longest {
		longest = took
	}
}

// Calls use with every batch of the map. The cursor is as large as a key: the library asks for that.
func batches(m *ebpf.Map, chunk int, asStructs bool, use func([]tuple, []entry)) error {
	keys, values := make([]tuple, chunk), make([]entry, chunk)
	var keysOut, valuesOut interface{} = tuples(keys), entries(values)
	if asStructs {
		keysOut, valuesOut = keys, values
	}
	var cursor, next tuple
	var from interface{}
	for {
		start := cpu()
		count, err := m.BatchLookup(from, unsafe.Pointer(&next), keysOut, valuesOut, nil)
		called(start)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		use(keys[:count], values[:count])
		if err != nil {
			return nil
		}
		cursor = next
		from = unsafe.Pointer(&cursor)
	}
}

func nextKeys(m *ebpf.Map) (int, error) {
	var key, next tuple
	var value entry
	count := 0
	err := m.NextKey(nil, unsafe.Pointer(&next))
	for err == nil {
		key = next
		if m.Lookup(unsafe.Pointer(&key), unsafe.Pointer(&value)) == nil {
			count++
		}
		err = m.NextKey(unsafe.Pointer(&key), unsafe.Pointer(&next))
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return count, err
}

func host(port [2]byte) uint16 { return uint16(port[0])<<8 | uint16(port[1]) }

func protocol(number uint8) string {
	switch number {
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	}
	return strconv.Itoa(int(number))
}

var flagNames = []string{
	"RxClosing", "TxClosing", "Nat64", "LBLoopback", "SeenNonSyn", "NodePort", "ProxyRedirect", "DSRInternal",
	"FromL7LB", "", "FromTunnel",
}

func flagsText(flags uint16) string {
	var text strings.Builder
	text.WriteString(fmt.Sprintf("Flags=0x%04x [ ", flags))
	for bit, name := range flagNames {
		if name != "" && flags&(1<<bit) != 0 {
			text.WriteString(name)
			text.WriteByte(' ')
		}
	}
	text.WriteByte(']')
	return text.String()
}

func (t *tuple) dump(to *strings.Builder) bool {
	if t.Nexthdr == 0 {
		return false
	}
	daddr, saddr := netip.AddrFrom4(t.Daddr).String(), netip.AddrFrom4(t.Saddr).String()
	sport, dport := host(t.Sport), host(t.Dport)
	switch {
	case t.Flags&service != 0:
		to.WriteString(fmt.Sprintf("%s SVC %s:%d -> %s:%d ", protocol(t.Nexthdr), saddr, dport, daddr, sport))
	case t.Flags&in != 0:
		to.WriteString(fmt.Sprintf("%s IN %s:%d -> %s:%d ", protocol(t.Nexthdr), daddr, sport, saddr, dport))
	default:
		to.WriteString(fmt.Sprintf("%s OUT %s:%d -> %s:%d ", protocol(t.Nexthdr), daddr, sport, saddr, dport))
	}
	if t.Flags&related != 0 {
		to.WriteString("related ")
	}
	return true
}

func (e *entry) text() string {
	return fmt.Sprintf("expires=%d Packets=%d Bytes=%d RxFlagsSeen=0x%02x LastRxReport=%d TxFlagsSeen=0x%02x "+
		"LastTxReport=%d %s RevNAT=%d SourceSecurityID=%d IfIndex=%d BackendID=%d \n",
		e.Lifetime, e.Packets, e.Bytes, e.RxFlagsSeen, e.LastRxReport, e.TxFlagsSeen,
		e.LastTxReport, flagsText(e.Flags), host(e.RevNat), e.SourceSecurityID, e.IfIndex, e.BackendID)
}

func list(m *ebpf.Map, chunk int) error {
	var out strings.Builder
	err := batches(m, chunk, false, func(keys []tuple, values []entry) {
		for i := range keys {
			if keys[i].dump(&out) {
				out.WriteString(values[i].text())
			}
		}
	})
	if err == nil {
		_, err = os.Stdout.WriteString(out.String())
	}
	return err
}

func run(arguments []string) error {
	m, err := ebpf.LoadPinnedMap(arguments[0], nil)
	if err != nil {
		return err
	}
	defer m.Close()
	if strings.HasPrefix(arguments[1], "collect-") {
		return collect(m, arguments[1:])
	}
	chunk := 1
	if len(arguments) > 2 {
		if chunk, err = strconv.Atoi(arguments[2]); err != nil {
			return err
		}
	}
	count := 0
	start := time.Now()
	switch arguments[1] {
	case "list":
		return list(m, chunk)
	case "next-key":
		count, err = nextKeys(m)
	default:
		err = batches(m, chunk, arguments[1] == "structs", func(keys []tuple, _ []entry) { count += len(keys) })
	}
	if err == nil {
		fmt.Println(count, time.Since(start).Nanoseconds(), longest)
	}
	return err
}

func main() {
	runtime.LockOSThread()
	if len(os.Args) < 3 {
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
