/**
 * Generates what is made of the citty definitions: the man pages and the bash completion. docs.test.ts compares them
 * with fixtures/; UPDATE_GOLDENS=1 writes them.
 */
import type { ArgDef } from "citty";
import pkg from "../../package.json" with { type: "json" };
import { commonArgs, flagNames, takesValue } from "../../src/cmd/_args.ts";
import { EXIT_STATUS_TEXT } from "../../src/cmd/_fault.ts";
import { type About, hintOf, meaning, ownArgs, spelling, synopsis } from "../../src/cmd/_help.ts";
import { COMMANDS } from "../../src/main.ts";

export async function abouts(): Promise<About[]> {
  return Promise.all(Object.values(COMMANDS).map(async (c) => (await c.load()).about));
}

/** of the text; mandoc wants one, and the day of the build would make every build another */
const DATE = "2026-11-22";

/** Text for roff: backslashes, hyphens that must stay minus signs, and lines that would be requests. */
const esc = (s: string): string =>
  s
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/gm, "\\&$1");
const flagRoff = (name: string, def: ArgDef): string => {
  const [head, ...rest] = spelling(name, def).split(/(?<=--[a-z-]+) /);
  return `\\fB${esc(head).replace(", ", "\\fR, \\fB")}\\fR${rest.length > 0 ? ` \\fI${esc(rest.join(" "))}\\fR` : ""}`;
};

function page(name: string, summary: string, sections: readonly (readonly [string, string])[]): string {
  const body = sections.map(([title, text]) => `.SH ${title}\n${text}`).join("\n");
  const title = name.toUpperCase().replaceAll("-", "\\-");
  return `.\\" generated from the command's definitions: UPDATE_GOLDENS=1 bun test test/cmd/docs.test.ts
.TH ${title} 8 "${DATE}" "epnic ${pkg.version}" "System Administration"
.SH NAME
${esc(name)} \\- ${esc(summary)}
${body}
`;
}

const paragraphs = (ps: readonly string[]): string => ps.map(esc).join("\n.PP\n");
const flags = (defs: readonly (readonly [string, ArgDef])[]): string =>
  defs.map(([n, d]) => `.TP\n${flagRoff(n, d)}\n${esc(meaning(d))}`).join("\n");
const examples = (list: About["examples"]): string =>
  list.map(([c, does]) => `.TP\n\\fB${esc(c)}\\fR\n${esc(does)}`).join("\n");
const exitStatus = (): string => EXIT_STATUS_TEXT.map(([n, what]) => `.TP\n.B ${n}\n${esc(what)}`).join("\n");
const seeAlso = (names: readonly string[]): string => names.map((n) => `.BR ${esc(n)} (8)`).join(",\n");
const common = (): string => flags(Object.entries(commonArgs) as [string, ArgDef][]);

const FILES: readonly (readonly [string, string])[] = [
  ["/etc/epnic/epnic.toml", "the configuration of epnic run"],
  ["/run/epnic/DEVICE.lock", "held by the run of DEVICE"],
  ["/run/epnic/DEVICE.counters", "the counter page of the run of DEVICE"],
];
const files = (list: readonly (readonly [string, string])[]): string =>
  list.map(([p, what]) => `.TP\n.I ${esc(p)}\n${esc(what)}`).join("\n");

function commandPage(a: About, all: readonly About[]): string {
  const { positionals, flags: own } = ownArgs(a);
  const others = ["epnic", ...all.filter((o) => o !== a).map((o) => `epnic-${o.name}`)];
  const arguments_ = positionals.map(([n, d]) => `.TP\n\\fI${esc(hintOf(n, d))}\\fR\n${esc(d.description ?? "")}`);
  return page(`epnic-${a.name}`, a.summary, [
    ["SYNOPSIS", `.nf\n${esc(synopsis(a))}\n.fi`],
    ["DESCRIPTION", paragraphs(a.description)],
    ["OPTIONS", [...arguments_, flags(own), common()].filter((s) => s !== "").join("\n")],
    ["EXIT STATUS", exitStatus()],
    ["FILES", files(a.files && a.files.length > 0 ? a.files : FILES)],
    ["EXAMPLES", examples(a.examples)],
    ["SEE ALSO", seeAlso(others)],
  ]);
}

/** File name -> text, epnic.8 first. */
export async function manPages(): Promise<Record<string, string>> {
  const all = await abouts();
  const root = page("epnic", "a PCIe endpoint board as a stock virtio-net card", [
    ["SYNOPSIS", ".nf\nepnic [FLAGS] COMMAND [FLAGS] [DEVICE]\n.fi"],
    [
      "DESCRIPTION",
      paragraphs([
        "epnic makes a board with a PCIe endpoint controller a network card for the host it is plugged into. The host loads its stock virtio_net driver, and so does the board; epnic pairs the virtqueues of both and lets the controller's own DMA engine carry each frame from one driver's buffer to the other's.",
        "A DEVICE is named as epnic probe prints it, or by the beginning of that name if it fits only one. The device model is a software controller with a simulated host: everything can be tried without a board.",
        "The answer goes to standard output, everything else to standard error. When a command fails it prints nothing on standard output, or with --json one object with the keys error.code, error.message and error.hint.",
      ]),
    ],
    ["COMMANDS", all.map((a) => `.TP\n.BR epnic\\-${a.name} (8)\n${esc(a.summary)}`).join("\n")],
    ["OPTIONS", `These are accepted before and after the command.\n${common()}`],
    ["EXIT STATUS", exitStatus()],
    [
      "ENVIRONMENT",
      [
        ["NO_COLOR", "when not empty: never print colour"],
        ["NOTIFY_SOCKET, WATCHDOG_USEC", "set by systemd: epnic run tells when it is ready and that it is alive"],
      ]
        .map(([n, what]) => `.TP\n.B ${n}\n${esc(what)}`)
        .join("\n"),
    ],
    ["FILES", files(FILES)],
    [
      "EXAMPLES",
      examples([
        ["epnic probe", "what is here, and what is missing"],
        ["epnic bind a40000000.pcie-ep", "give the controller to epnic"],
        ["epnic run a40000000.pcie-ep", "be the network card until interrupted"],
        ["epnic stat -i 1", "frames and bytes per second of the run"],
      ]),
    ],
    ["SEE ALSO", seeAlso(all.map((a) => `epnic-${a.name}`))],
  ]);
  return { "epnic.8": root, ...Object.fromEntries(all.map((a) => [`epnic-${a.name}.8`, commandPage(a, all)])) };
}

/** Flags whose value is a file, a directory, a network interface or a namespace. */
const COMPLETIONS: Readonly<Record<string, string>> = {
  FILE: "compgen -f",
  PATH: "compgen -f",
  REPORT: "compgen -f",
  DIR: "compgen -d",
  DEVICE: "_epnic_devices",
};

/** A static bash file: no call of epnic on each tab. */
export async function bashCompletion(): Promise<string> {
  const all = await abouts();
  const cases = all.map((a) => {
    const { positionals, flags: own } = ownArgs(a);
    const values = own
      .filter(([, d]) => takesValue(d))
      .map(([n, d]) => {
        const spelled = ["alias" in d && d.alias ? `-${d.alias}` : "", `--${n}`].filter((s) => s).join("|");
        if (d.type === "enum" && d.options) return `        ${spelled}) words="${d.options.join(" ")}" ;;`;
        const how = COMPLETIONS[hintOf(n, d)];
        return how === "_epnic_devices"
          ? `        ${spelled}) words="$(_epnic_devices)" ;;`
          : `        ${spelled}) ${how ? `COMPREPLY=($(${how} -- "$cur"))` : "COMPREPLY=()"}; return ;;`;
      });
    const hint = positionals.length > 0 ? hintOf(...positionals[0]) : "";
    const words = hint === "DEVICE" ? "$(_epnic_devices)" : hint.replaceAll("|", " ");
    const second =
      a.name === "bench"
        ? `
          elif [[ " \${COMP_WORDS[*]} " == *" --compare "* ]]; then COMPREPLY=($(compgen -f -- "$cur")); return
          elif [[ " \${COMP_WORDS[*]} " == *" live "* ]]; then words="$(_epnic_devices)"`
        : "";
    return `    ${a.name})
      case $prev in
${values.join("\n")}
        *)
          if [[ $cur == -* ]]; then words="${flagNames(a.args).join(" ")}"${second}
          else words="${words}"
          fi ;;
      esac ;;`;
  });
  return `# bash completion for epnic(8); generated: UPDATE_GOLDENS=1 bun test test/cmd/docs.test.ts
_epnic_devices() {
  local d
  echo model
  for d in /sys/class/pci_epc/*; do [[ -e $d ]] && echo "\${d##*/}"; done
}

_epnic() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} words="" cmd="" i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ \${COMP_WORDS[i]} != -* ]]; then cmd=\${COMP_WORDS[i]}; break; fi
  done
  case $cmd in
    "") words="${all.map((a) => a.name).join(" ")} ${flagNames(commonArgs).join(" ")}" ;;
${cases.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _epnic epnic
`;
}
