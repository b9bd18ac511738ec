/**
 * Drivers that break their rings in use, the host's and the board's: the pair is stopped, counted and said once with both
 * numbers, both links are shown down, nobody's memory is touched any more, and the host's next reset begins a life in
 * which every frame arrives.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { DriverRing } from "../../src/hw/driver-ring.ts";
import { ld16, st16 } from "../../src/hw/mem.ts";
import type { RingFault } from "../../src/hw/model/host-faults.ts";
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE } from "../../src/hw/virtio.layout.ts";
import { EngineRig, type EngineRigOptions } from "../support/engine-rig.ts";

// long only on a machine that is busy with other things
setDefaultTimeout(30_000);

const CORES = ["modern-msix", "modern-intx", "legacy-msix", "legacy-intx"] as const;

/** Spare descriptors, so that there is room for a broken chain in a receive queue too. */
const net = { rx: { least: 1536, most: 1536, align: 64, splitHeader: false, spare: 8 } };

function liveRig(o: Partial<EngineRigOptions>): EngineRig {
  const rig = new EngineRig({ ...o, host: { net, ...o.host } });
  rig.up();
  rig.exchange(20);
  // what a driver that is about to break its ring sends may be rubbish
  rig.toBoard.lenient = true;
  return rig;
}

/** Frames for the side whose buffers are broken: a receive buffer is met only when its turn comes. */
function feed(rig: EngineRig, toHost: boolean): void {
  if (toHost) {
    if (rig.port.backlog < 10) for (let i = 0; i < 20; i++) rig.port.send(rig.toHost.make(100));
    return;
  }
  if (rig.end.backlog >= 10) return;
  const hdr = rig.end.features!.hdrLen;
  for (let i = 0; i < 20; i++) {
    const frame = rig.toBoard.make(100);
    const whole = new Uint8Array(hdr + frame.length);
    whole.set(frame, hdr);
    rig.end.send(whole);
  }
}

/** No frame is under way, and what landed has been taken. */
function atRest(rig: EngineRig): void {
  const { dp, service } = rig.engine;
  rig.until("at rest", () => dp.toHost.outstanding === 0 && dp.toBoard.outstanding === 0);
  const turns = service.turns + 3000;
  rig.until("turns", () => service.turns > turns);
}

const statusAt = (rig: EngineRig): number => (rig.engine.fn.personality === "modern" ? 0x14 : 0x12);

/** The pair has been stopped by `text`: everything that must hold then, and that a reset of the host ends it. */
function checkStopped(rig: EngineRig, text: RegExp): void {
  const { engine, endpoint, port, end, log } = rig;
  const { service, dp } = engine;
  expect(service.diagnosis).toMatch(text);
  expect(service.faults).toBe(1);
  expect(service.refusals).toBe(0);
  expect(port.linkUp).toBe(false);
  rig.until("the host sees no carrier", () => !end.linkUp, 20_000);
  expect(endpoint.barRead(0, statusAt(rig), 1) & 0x40).toBe(0x40);
  const moved = [dp.toHost.frames, dp.toBoard.frames, endpoint.stats.bytesToHost, endpoint.stats.bytesToBoard];
  const turns = service.turns + 5000;
  rig.until("still stopped", () => service.turns > turns);
  expect([dp.toHost.frames, dp.toBoard.frames, endpoint.stats.bytesToHost, endpoint.stats.bytesToBoard]).toEqual(moved);
  expect([service.link, service.faults]).toEqual(["stopped", 1]);
  expect(log.filter((l) => text.test(l)).length).toBe(1);

  rig.host.reset(true);
  rig.until("left the old life", () => service.link !== "stopped");
  rig.toBoard.lenient = false;
  rig.up();
  rig.until("what was queued", () => port.backlog === 0 && end.backlog === 0);
  const missing = (): number[] => [rig.toHost.sent - rig.toHost.received, rig.toBoard.sent - rig.toBoard.received];
  atRest(rig);
  const before = missing();
  rig.exchange(100);
  expect(missing()).toEqual(before);
  expect([service.diagnosis, service.faults, service.link]).toEqual(["", 1, "live"]);
}

const HOST: [RingFault, 0 | 1, RegExp, Partial<EngineRigOptions>?][] = [
  ["desc-loop", 1, /hq\.tx: the chain at head \d+ has more links than the table has descriptors \(256\)/],
  ["desc-loop", 0, /hq\.rx: the chain at head \d+ has more links than the table has descriptors \(256\)/],
  ["next-out-of-range", 1, /hq\.tx: descriptor index 256 is outside the table of 256/],
  ["next-out-of-range", 0, /hq\.rx: descriptor index 256 is outside the table of 256/],
  ["head-out-of-range", 1, /hq\.tx: descriptor index 256 is outside the table of 256/],
  ["head-out-of-range", 0, /hq\.rx: descriptor index 256 is outside the table of 256/],
  ["avail-jump", 1, /hq\.tx: avail index is \d+ ahead of the used index, queue size is 256/],
  ["zero-length", 1, /hq\.tx: descriptor \d+ has length 0, allowed is 1 to 2147483647/],
  ["zero-length", 0, /hq\.rx: descriptor \d+ has length 0, allowed is 1 to 2147483647/],
  ["write-before-read", 1, /hq\.tx: descriptor \d+ has flags 0x\d+: wrong direction/],
  ["write-before-read", 0, /hq\.rx: descriptor \d+ has flags 0x\d+: wrong direction/],
  [
    "long-chain",
    1,
    /hq\.tx: the chain at head \d+ has more than 512 segments/,
    { core: "modern-msix", engine: { queueSize: 1024 } },
  ],
  [
    "indirect-length",
    1,
    /hq\.tx: the indirect table of head \d+ is malformed \(length 24/,
    { core: "legacy-msix", engine: { features: "wide" } },
  ],
  [
    "indirect-nested",
    1,
    /hq\.tx: the indirect table of head \d+ is malformed/,
    { core: "legacy-msix", engine: { features: "wide" } },
  ],
];

describe("the host's driver", () => {
  HOST.forEach(([fault, queue, text, only], i) => {
    // two of the four cores for each
    const cores = [CORES[i & 3]!, CORES[(i + 1) & 3]!];
    for (const o of only === undefined ? cores.map((core) => ({ core })) : [only]) {
      test(`${fault} in ${queue === 0 ? "receiveq" : "transmitq"} (${o.core})`, () => {
        const rig = liveRig(o);
        expect(rig.host.inject(fault, queue)).toBeGreaterThanOrEqual(0);
        rig.until("stopped", () => {
          if (queue === 0) feed(rig, true);
          return rig.engine.service.link === "stopped";
        });
        checkStopped(rig, text);
        rig.host.reset(false);
        rig.close();
      });
    }
  });

  for (const core of ["modern-msix", "legacy-intx"] as const) {
    for (const queue of [0, 1] as const) {
      for (const [how, ahead] of [
        ["goes back", -3],
        ["jumps", 600],
      ] as const) {
        test(`an avail index that ${how} and stays there, in ${queue === 0 ? "receiveq" : "transmitq"} (${core})`, () => {
          const rig = liveRig({ core });
          atRest(rig);
          const { rx, tx } = rig.host.net!;
          const { hqRx, hqTx } = rig.engine.dp;
          const ring = (queue === 0 ? rx : tx).ring;
          const hq = queue === 0 ? hqRx : hqTx;
          // what the engine has read; of receive buffers it fetches more only when half are left
          const was = hq.ready;
          const to = (ahead < 0 ? was + ahead : hq.used + ahead) & 0xffff;
          st16(ring.availPtr + 2, to);
          ring.publish = () => false;
          rig.until("stopped", () => {
            if (queue === 0) feed(rig, true);
            return rig.engine.service.link === "stopped";
          });
          const name = queue === 0 ? "hq\\.rx" : "hq\\.tx";
          checkStopped(
            rig,
            new RegExp(
              ahead < 0
                ? `${name}: avail index went back from ${was} to ${to}`
                : `${name}: avail index is \\d+ ahead of the used index, queue size is 256`,
            ),
          );
          rig.close();
        });
      }
    }
  }

  test("a bad address: the DMA channel halts, is recovered, and carries the next life", () => {
    for (const core of CORES) {
      const rig = new EngineRig({ core, host: { net } });
      rig.up();
      rig.exchange(20);
      expect(rig.host.inject("bad-address", 1)).toBeGreaterThanOrEqual(0);
      rig.until("stopped", () => rig.engine.service.link === "stopped");
      checkStopped(rig, /DMA read channel \d halted, error status 0x[0-9a-f]+/);
      rig.host.reset(false);
      rig.close();
    }
  });
});

type Breaker = (ring: DriverRing) => void;

/** Every descriptor of the ring, whichever is taken next. */
const each =
  (f: (desc: Int32Array, w: number, i: number) => void): Breaker =>
  (ring) => {
    for (let i = 0; i < ring.size; i++) f(ring.desc, 4 * i, i);
  };

const BOARD: [string, RegExp, Breaker][] = [
  [
    "a descriptor loop",
    /: the chain at head \d+ has more links than the table has descriptors \(64\)/,
    each((d, w, i) => {
      d[w + 3] = (d[w + 3]! & DESC_F_WRITE) | DESC_F_NEXT | (i << 16);
    }),
  ],
  [
    "a link outside the table",
    /: descriptor index 64 is outside the table of 64/,
    each((d, w) => {
      d[w + 3] = (d[w + 3]! & DESC_F_WRITE) | DESC_F_NEXT | (64 << 16);
    }),
  ],
  [
    "a head outside the table",
    /: descriptor index 999 is outside the table of 64/,
    (ring) => {
      for (let i = 0; i < ring.size; i++) ring.avail[2 + i] = 999;
    },
  ],
  [
    "the wrong direction",
    /: descriptor \d+ has flags 0x\d+: wrong direction/,
    each((d, w) => {
      d[w + 3] = d[w + 3]! ^ DESC_F_WRITE;
    }),
  ],
  [
    "length 0",
    /: descriptor \d+ has length 0, allowed is 1 to 2147483647/,
    each((d, w) => {
      d[w + 2] = 0;
    }),
  ],
  [
    "an address outside its memory",
    /: buffer address 0x7f_[0-9a-f]{8} is outside the memory of the board's driver/,
    each((d, w) => {
      d[w + 1] = 0x7f;
    }),
  ],
  [
    "an indirect table outside its memory",
    /: buffer address 0x7f_[0-9a-f]{8} is outside the memory of the board's driver/,
    each((d, w) => {
      d[w + 1] = 0x7f;
      d[w + 2] = 32;
      d[w + 3] = DESC_F_INDIRECT;
    }),
  ],
  [
    "an avail index that jumped",
    /: avail index is \d+ ahead of the used index, queue size is 64/,
    (ring) => st16(ring.availPtr + 2, (ld16(ring.usedPtr + 2) + 100) & 0xffff),
  ],
];

describe("the board's driver", () => {
  for (const [name, text, hurt] of BOARD) {
    for (const queue of [0, 1] as const) {
      test(`${name} in ${queue === 0 ? "eq.rx" : "eq.tx"}`, () => {
        const rig = liveRig({ core: "modern-msix" });
        const { port } = rig;
        const { turn, stop } = port;
        const ring = queue === 0 ? port.rx : port.tx;
        // The driver's own bookkeeping finds its ring as it wrote it.
        const sound = ring.desc.slice();
        const entries = ring.avail.slice();
        let hurting = false;
        const mend = (): void => {
          if (!hurting) return;
          hurting = false;
          ring.desc.set(sound);
          ring.avail.set(entries);
        };
        port.turn = () => {
          mend();
          const work = turn.call(port);
          if (!port.ready) return work;
          sound.set(ring.desc);
          entries.set(ring.avail);
          hurting = true;
          hurt(ring);
          return work;
        };
        port.stop = () => {
          mend();
          port.turn = turn;
          port.stop = stop;
          port.stop();
        };
        rig.until("stopped", () => {
          feed(rig, queue === 1);
          return rig.engine.service.link === "stopped";
        });
        checkStopped(rig, new RegExp(`${queue === 0 ? "eq\\.rx" : "eq\\.tx"}${text.source}`));
        rig.close();
      });
    }
  }
});
