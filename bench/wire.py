"""The wires between the machines of bench/network.sh: a TUN device each, and packets that arrive a while after they were sent.

wire.py N DELAY_SECONDS: devices lowrank0… of this network namespace; whoever runs it moves them to their machines. What `tc netem delay`
does, for kernels that have no netem.
"""
import fcntl, heapq, os, select, struct, sys, time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
count, delay = int(sys.argv[1]), float(sys.argv[2])


def device(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


ports = [device(f"lowrank{i}") for i in range(count)]
print("ready", flush=True)
wires, order = [], 0  # (arrival, order, port, packet)
while True:
    # Not epoll, whose time is in milliseconds.
    wait = max(0, wires[0][0] - time.monotonic()) if wires else None
    for fd in select.select(ports, [], [], wait)[0]:
        for _ in range(32):
            try:
                packet = os.read(fd, 65536)
            except OSError:
                break
            port = packet[19] - 1  # the last byte of the address 10.77.0.x
            if packet[0] >> 4 == 4 and 0 <= port < count:
                order += 1
                heapq.heappush(wires, (time.monotonic() + delay, order, ports[port], packet))
    now = time.monotonic()
    while wires and wires[0][0] <= now:
        try:
            os.write(wires[0][2], wires[0][3])
        except OSError:
            pass  # the device is down, or its queue is full: the packet is lost
        heapq.heappop(wires)
