"""The defences that `defences.py` switches off: the exact text that is one, and what stands there without it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A text of a file, and what stands there instead."""

    path: str
    old: str
    new: str

    def applied(self, whole: str) -> str:
        """Return the file without its defence; raises if the defence is not there, once."""
        if whole.count(self.old) != 1:
            raise ValueError(f"{self.path} has {self.old!r} {whole.count(self.old)} times, not once")
        return whole.replace(self.old, self.new)


@dataclass(frozen=True)
class Removal:
    """One defence, with what would hide its absence. ``tests``: where it is missed; ``only``: pytest's ``-k``."""

    what: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    only: str


def _egress(what: str, file: str, old: str, new: str, *tests: str) -> Removal:
    edit = Edit(f"sandbox/egress/{file}.py", old, new)
    return Removal(what, (edit,), tuple(f"tests/{each}" for each in tests), "not docker")


def _sandbox(what: str, *edits: tuple[str, str, str], tests: str, only: str = "not docker") -> Removal:
    made = tuple(Edit(f"sandbox/{file}.py", old, new) for file, old, new in edits)
    return Removal(what, made, tuple(f"tests/{each}" for each in tests.split()), only)


def _docker(what: str, *edits: tuple[str, str, str], tests: str) -> Removal:
    return _sandbox(f"{what} (docker)", *edits, tests=tests, only="docker")


def _pods(what: str, *edits: tuple[str, str, str], tests: str) -> Removal:
    return _sandbox(f"{what} (kubernetes)", *edits, tests=tests, only="kubernetes")


_DESTINATIONS = "attacks/egress/test_destinations.py"
_STUBS = "attacks/egress/test_stubs.py"
_FRAMING = "attacks/egress/test_framing.py"
_BODIES = "unit/egress/test_bodies.py"
_HEADS = "unit/egress/test_heads.py"
_ANSWERS = "attacks/egress/test_answers.py"
_ADDRESSES = "attacks/egress/test_addresses.py"
_LIMITS = "attacks/egress/test_limits.py"
_REVOCATION = "attacks/egress/test_revocation.py"
_GATE = "integration/egress/test_gate.py"

EGRESS = [
    _egress("Only hosts on the list", "rules", 'if policy.networking == "limited" and not is_listed',
            "if False and not is_listed", _DESTINATIONS, f"{_LIMITS}::test_an_empty_environment_reaches_nothing"),
    _egress("A name is matched label by label", "rules", 'if not name or not host.endswith("." + name):',
            "if not name or not host.endswith(name):", _DESTINATIONS),
    _egress("A wildcard binding is one label", "rules", 'return wildcard == "any_depth" or',
            "return True or", _DESTINATIONS),
    _egress("Ports 443 and 80 only", "rules", "if destination.port != DEFAULT_PORTS[destination.scheme]:",
            "if False:", _DESTINATIONS),
    _egress("No http:// to a bound host", "rules", 'if bound and destination.scheme == "http":', "if False:",
            _DESTINATIONS),
    _egress("Numbers that resolvers take for addresses", "destination", "    if _NUMBER.match(labels[-1]):\n",
            "    if False:\n", _DESTINATIONS),
    _egress("A-labels are checked", "destination", '        if label.startswith("xn--"):\n', "        if False:\n",
            _DESTINATIONS),
    _egress("Host = destination", "connection", "    if not destination.is_named_by(text):\n", "    if False:\n",
            _DESTINATIONS, _FRAMING),
    _egress("SNI = destination", "tunnel", '    if name.lower().removesuffix(".") != host:\n', "    if False:\n",
            _DESTINATIONS),
    _egress("Target in origin form", "connection", '        if not target.startswith("/") or "#" in target:\n',
            "        if False:\n", _DESTINATIONS),
    _egress("A tunnel begins with TLS", "connection", "        except HelloError as error:\n            raise RefusedError(",
            "        except HelloError as error:\n            return early\n            raise RefusedError(",
            _DESTINATIONS),
    _egress("Private and reserved addresses", "addresses", "return _is_closed(address) or is_own(address)",
            "return is_own(address) and False", _ADDRESSES),
    _egress("Metadata addresses, whatever is allowed", "addresses",
            "if address in _METADATA or _holds_another(address):", "if False:", _ADDRESSES),
    _egress("The machine's own addresses", "addresses", "return _is_closed(address) or is_own(address)",
            "return _is_closed(address)", _ADDRESSES),
    _egress("Every address of a name is vetted", "addresses", "    if any(rules.refuses(address) for address in addresses):",
            "    if all(rules.refuses(address) for address in addresses):", _ADDRESSES),
    _egress("The vetted address is dialled", "upstream", "await self._dialler.dial(destination, where)",
            'await self._dialler.dial(destination, [("10.0.0.1", destination.port)])', _ADDRESSES),
    _egress("A stub is known by its sandbox", "exchange", "            if credential.stub == text:\n",
            "            if True:\n", _STUBS),
    _egress("A credential goes to its hosts only", "rules",
            "    if not _is_bound(binding, destination.host):\n        raise", "    if False:\n        raise",
            _STUBS, _DESTINATIONS),
    _egress("No stub is left after the rewrite", "stubs", "    if mentioned(headers, target):\n", "    if False:\n",
            _STUBS),
    _egress("Stubs in streamed bodies", "stubs", '        if b"bhstub_" in data and _STUB.search(data):\n',
            "        if False:\n", _STUBS),
    _egress("Stubs across chunk borders", "stubs", "        self._held = begun[0]\n        return data[: begun.start()]\n",
            "        return data\n", _STUBS),
    _egress("No other credential to a bound host", "stubs",
            "    if whole is None:\n        raise", "    if whole is None:\n        return value\n        raise", _STUBS),
    _egress("No other password to a bound host", "stubs", "    raise _foreign(f\"header {name.decode('ascii', 'replace')}\")\n\n\ndef _replaced",
            "    return pair\n\n\ndef _replaced", _STUBS),
    _egress("Secrets that would break a header", "exchange",
            "if _UNUSABLE.intersection(secret.value) or not secret.value:", "if False:", _STUBS),
    _egress("Stubs do not reach the audit", "stubs", '    return _STUB_TEXT.sub("bhstub_*", text)\n', "    return text\n",
            _STUBS),
    _egress("Methods of a binding", "rules", "    if binding.methods is not None and method not in",
            "    if False and method not in", _FRAMING),
    _egress("Paths of a binding", "rules", "    if binding.path_prefixes is not None and not _path_matches",
            "    if False and not _path_matches", _FRAMING),
    _egress("Paths that can be read in two ways", "rules", "    if ruled and (_AMBIGUOUS", "    if False and (_AMBIGUOUS",
            _FRAMING),
    _egress("No TRACE", "rules", '    if method.upper() in {"TRACE", "TRACK", "CONNECT"}:\n', "    if False:\n", _FRAMING),
    _egress("Bare line ends, folded headers", "heads", "    if len(found) + 1 != data.count(b\"\\n\", start, end):\n",
            "    if False:\n", _FRAMING, _HEADS),
    _egress("A head that cannot become valid is not waited for", "heads",
            "    if not end and _UNCLEAN.search(data, begun):\n", "    if False:\n", _FRAMING, _HEADS),
    _egress("Control characters in headers", "heads", '_VALUE = rb"[\\t\\x20-\\x7e\\x80-\\xff]*"',
            '_VALUE = rb"[^\\r\\n]*"', _FRAMING),
    _egress("What says the length stands there once", "heads", "        elif lower in _ONCE:\n", "        elif False:\n", _FRAMING),
    _egress("Length or chunks, not both", "heads", "        if self.length is not None or self.version",
            "        if False or self.version", _FRAMING),
    _egress("The length is a number", "heads", "        if length is not None and not _LENGTH.match(length):\n",
            "        length = (length or b\"\").strip(b\"+\") or None\n        if False:\n", _FRAMING),
    _egress("No encoding but chunked", "heads", '        if encoding.lower() != b"chunked":\n', "        if False:\n", _FRAMING),
    _egress("Chunks end where they say", "bodies", '            if not b"\\r\\n".startswith(data[at : at + 2]):\n',
            "            if False:\n", _FRAMING),
    _egress("Sizes of chunks are plain numbers", "bodies",
            "not _CHUNK_BEGUN.fullmatch(data, at):\n", "False:\n", _FRAMING),
    _egress("Lines between chunks have a limit", "bodies", "len(data) - at >= MAX_CHUNK_LINE_BYTES or ", "", _BODIES),
    _egress("Number of headers", "heads", "    if len(found) > MAX_HEADERS:\n", "    if False:\n", _FRAMING),
    _egress("Size of a head", "heads", "    if (end or len(data)) > limit:\n", "    if False:\n", _FRAMING),
    _egress("Headers of one hop stay behind", "heads", "        dropped = _NOT_PASSED_ON | self._options\n",
            "        dropped = set()\n", _FRAMING),
    _egress("A body's length is said anew", "exchange", "        if length is not None:\n", "        if False:\n", _FRAMING),
    _egress("An upload that is given up ends its connection", "peers",
            "        if data:\n            await self.channel.send(data)\n",
            "        self._is_whole = last\n        if data:\n            await self.channel.send(data)\n",
            "unit/egress/test_peers.py"),
    _egress("Answers that wait before they are asked for", "channel",
            "        came = self._below.waiting()\n", "        return True\n        came = self._below.waiting()\n",
            _ANSWERS),
    _egress("Secrets are masked in answers", "scrub", "            if form in data:\n                data", "            if False:\n                data",
            _ANSWERS),
    _egress("Secrets across chunk borders", "scrub", "        keep = self._begun(data)\n", "        keep = 0\n", _ANSWERS),
    _egress("Earlier requests' secrets are masked too", "exchange",
            "used.get(credential.credential_id) or await self._secret(credential)",
            "used.get(credential.credential_id)", _ANSWERS),
    _egress("Encoded answers are not passed on", "exchange",
            '        if outgoing.secrets and head.tokens(b"content-encoding") - {b"identity", b""}:\n', "        if False:\n",
            _ANSWERS),
    _egress("No answers in parts", "exchange", '            dropped |= {b"range", b"if-range"}\n', "            pass\n",
            _ANSWERS),
    _egress("No cookies of a bound host", "exchange", 'if not (bound and name.lower() == b"set-cookie")', "if True",
            _ANSWERS),
    _egress("The upstream's certificate", "upstream", "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
            "    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n", _ANSWERS),
    _egress("Open streams are judged again", "revocation", "            await self._judge_open()\n", "", _REVOCATION),
    _egress("Requests are judged again after their record", "exchange",
            "        await self._watched.confirm(self._policies)\n", "", _REVOCATION),
    _egress("Tunnels are judged again after their record", "connection",
            "        await self._watched.confirm(self._services.policies)\n", "", _REVOCATION),
    _egress("What cannot be recorded does not happen", "audit", "            raise UnrecordedError from error\n",
            "            return\n", _REVOCATION),
    _egress("A client that leaves ends its stream", "revocation", "        if self.answering and self.channels[0].is_left:\n",
            "        if False:\n", _REVOCATION),
    _egress("Slow senders are cut", "revocation", "        elif now - self._since > seconds:\n",
            "        elif False:\n", f"{_LIMITS}::test_slow_senders_are_cut"),
    _egress("Connections of a sandbox", "server", "        if len(guest.connections) >= MAX_CONNECTIONS_PER_SANDBOX:\n",
            "        if False:\n", f"{_LIMITS}::test_connections_have_a_limit_and_others_do_not_feel_it"),
    _egress("The gate asks for a password", "gate", "    return hmac.compare_digest(said, expected or b\"\") and expected is not None\n",
            "    return True\n", _GATE),
    _egress("The gate waits for nobody", "gate", "            async with asyncio.timeout(PREAMBLE_SECONDS):\n",
            "            async with asyncio.timeout(None):\n", f"{_GATE}::test_who_says_nothing_is_closed_in_time"),
    _egress("The gate's first line has a limit", "gate", "    while len(line) <= MAX_PREAMBLE_BYTES:\n", "    while True:\n", _GATE),
    _egress("One address keeps no other out", "gate", "self._unknown[peer] >= MAX_UNKNOWN_PER_ADDRESS or ", "", _GATE),
    _egress("Certificates are few", "certificates", "        while len(self._kept) > self._limit:\n", "        while False:\n",
            f"{_LIMITS}::test_names_take_no_more_certificates_than_the_limit"),
]  # fmt: skip

_CALLS = "attacks/sandbox/test_escape.py::test_calls_that_widen_a_sandbox_fail"
_ESCAPE = "attacks/sandbox/test_escape.py"
_NETWORK = "attacks/sandbox/test_network.py"
_RESOURCES = "attacks/sandbox/test_resources.py"
_SUPERVISOR = "attacks/sandbox/test_supervisor.py"
_OF_PODS = "attacks/sandbox/test_pods.py"
_ARCHIVE = "attacks/sandbox/test_archives.py"
_UNIT_ARCHIVES = "unit/sandbox/test_archives.py"
_ARCHIVES = (
    f"{_ARCHIVE}::test_a_hostile_archive_is_refused_and_leaves_nothing {_ARCHIVE}::test_what_waits_in_the_target_is_not_followed"
    f" {_ARCHIVE}::test_a_target_that_is_itself_a_link_is_refused {_ARCHIVE}::test_a_deep_tree_is_cut_and_said"
    f" {_ARCHIVE}::test_an_archive_without_end_is_refused_long_before_it"
    f" {_UNIT_ARCHIVES}::test_an_archive_that_is_not_as_it_should_be_is_refused {_UNIT_ARCHIVES}::test_special_bits_are_dropped"
    f" {_UNIT_ARCHIVES}::test_a_folder_reached_by_a_link_is_not_opened"
)
"""Those that take a second, not a minute."""
_UNCHECKED = ("supervised", "    return faults\n", "    return []\n")
"""What process 1 says of its confinement would refuse the sandbox before it is attacked."""
_UNLOOKED = ("supervised", 'for found in facts["canary"].values() if found]', "for found in ()]")

SANDBOX = [
    _sandbox("A network of its own", ("namespace", '"--unshare-all", ', '"--unshare-all", "--share-net", '), _UNCHECKED,
             tests=_NETWORK),
    _sandbox("The boot canary", ("supervised", "for found in facts[\"canary\"].values() if found]", "for found in ()]"),
             tests="attacks/sandbox/test_attestation.py unit/sandbox/test_attestation.py"),
    _sandbox("What was asked for is seen to be in effect", _UNCHECKED,
             tests="attacks/sandbox/test_attestation.py unit/sandbox/test_attestation.py"
             " integration/sandbox/test_diagnosis.py"),
    _sandbox("A user of its own on the host",
             ("launcher", "    os.setresgid(order[\"uid\"], order[\"uid\"], order[\"uid\"])\n"
              "    os.setresuid(order[\"uid\"], order[\"uid\"], order[\"uid\"])\n", ""),
             tests=f"{_ESCAPE}::test_no_command_runs_as_root_of_the_host"),
    _sandbox("No capabilities", ("namespace", '"--cap-drop", "ALL"', '"--cap-add", "ALL"'), _UNCHECKED,
             tests=f"{_CALLS} {_ESCAPE}::test_no_command_has_or_gets_capabilities"),
    _sandbox("The filter of system calls",
             ("supervisor/confinement", "    if not program:\n        return False\n", "    return False\n"),
             tests=f"{_CALLS} {_NETWORK} {_ESCAPE}::test_32_bit_calls_fail"),
    _sandbox("No namespaces in namespaces",
             ("supervisor/confinement", "_CLONE_NEW_ANY = 0x7E020000", "_CLONE_NEW_ANY = 0"), tests=_CALLS),
    _sandbox("No calls whose arguments a filter cannot read",
             ("supervisor/confinement", "_NEW_CALLS = (*range(425, 434), 435, 442)", "_NEW_CALLS = ()"), tests=_CALLS),
    _sandbox("No calls of another architecture",
             ("supervisor/confinement", "(_RETURN, 0, 0, _FAIL | errno.ENOSYS)]\n    program += [(_LOAD, 0, 0, _NUMBER)",
              "(_RETURN, 0, 0, _ALLOW)]\n    program += [(_LOAD, 0, 0, _NUMBER)"),
             tests=f"{_ESCAPE}::test_32_bit_calls_fail unit/sandbox/test_confinement.py"),
    _sandbox("No rare families of sockets",
             ("supervisor/confinement", "program += [(_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT)]",
              "program += [(_RETURN, 0, 0, _ALLOW)]"), tests=f"{_NETWORK} unit/sandbox/test_confinement.py"),
    _sandbox("Shared memory of its own", ("namespace", '"--unshare-all", ', '"--unshare-pid", "--unshare-net", '),
             tests=f"{_ESCAPE}::test_no_shared_memory_of_the_host_is_there"),
    _sandbox("A root that cannot be written", ("namespace", '"--remount-ro", "/dev", "--remount-ro", "/", ', ""),
             _UNCHECKED, tests=f"{_ESCAPE}::test_the_system_is_read_only"),
    _sandbox("Nobody of the host is in /etc",
             ("namespace", 'f"{runtime_path}/etc", "/etc"', '"/etc", "/etc"'),
             tests=f"{_ESCAPE}::test_the_hosts_files_are_not_there"),
    _sandbox("The worker's environment stays outside", ("namespace", ', "--clearenv"]', "]"),
             ("forkserver", "env=self._environment,", "env={**os.environ, **self._environment},"),
             tests=f"{_ESCAPE}::test_the_workers_environment_stays_outside"),
    _sandbox("A sandbox's folder is closed", ("namespace", "folder.mkdir(mode=0o700,", "folder.mkdir(mode=0o755,"),
             tests=f"{_ESCAPE}::test_a_sandboxs_folder_on_the_host_is_closed_to_others"),
    _sandbox("Folders of a size",
             ("namespace", '"--size", str(megabytes << 20), "--perms", "0700", "--tmpfs"', '"--perms", "0700", "--tmpfs"'),
             _UNCHECKED, tests=f"{_RESOURCES}::test_a_disk_that_is_filled_is_the_sandboxs_own"),
    _sandbox("So many processes", ("namespace", "pids=spec.pids + SPARE_PIDS", "pids=100_000"),
             ("namespace", 'limits["RLIMIT_NPROC"] = spec.pids', 'limits["RLIMIT_NPROC"] = 100_000'),
             tests=f"{_RESOURCES}::test_processes_are_limited"),
    _sandbox("So much memory", ("namespace", "memory_bytes=megabytes << 20", "memory_bytes=megabytes << 21"),
             tests=f"{_RESOURCES}::test_memory_beyond_what_was_asked_for_is_not_had"),
    _sandbox("So many open files", ("namespace", ', "RLIMIT_NOFILE": OPEN_FILES}', "}"),
             tests=f"{_RESOURCES}::test_open_files_are_limited"),
    _sandbox("No core files", ("namespace", '"RLIMIT_CORE": 0, ', ""),
             tests=f"{_RESOURCES}::test_no_core_file_is_written"),
    _sandbox("So much output", ("supervisor/run", "self.printed > OUTPUT_LIMIT_BYTES", "False"),
             tests="integration/sandbox/test_execution.py::test_a_line_without_end_is_ended_and_bounded"),
    _sandbox("Process 1 cannot be looked into",
             ("supervisor/main", "        become_last_choice()\n    prctl(PR_SET_DUMPABLE, 0)\n", "        become_last_choice()\n"),
             tests=_SUPERVISOR),
    _sandbox("A command inherits its standard streams only",
             ("supervisor/processes", "        os.closerange(3, 65536)\n        for number in", "        for number in"),
             ("supervisor/main", "        listener.set_inheritable(False)\n", "        pass\n"),
             ("supervisor/main", "            os.set_inheritable(options[name], False)\n", "            pass\n"),
             tests=f"{_SUPERVISOR}::test_a_command_inherits_nothing_but_its_standard_streams"),
    _sandbox("A keeper gets its command's orphans",
             ("supervisor/processes", "    prctl(PR_SET_CHILD_SUBREAPER, 1)\n", ""),
             tests=f"{_SUPERVISOR}::test_nothing_survives_a_timeout"),
    _sandbox("What a killed keeper kept is ended",
             ("supervisor/server", "            send_signal({stray} | processes.below(stray), signal.SIGKILL)\n",
              "            pass\n"), tests=f"{_SUPERVISOR}::test_killing_its_keeper_gains_a_command_nothing"),
    _sandbox("A command runs once",
             ("supervisor/commands", "            Waiter(answer).tell(*result)\n            return\n", "            pass\n"),
             tests="attacks/sandbox/test_archives.py::test_an_exec_id_cannot_be_used_for_another_command"),
    _sandbox("A sandbox ends at its deadline",
             ("supervisor/server", "        if time.monotonic() >= self._deadline:\n            self._end()\n", ""),
             tests="integration/sandbox/test_lifecycle.py::test_a_sandbox_ends_itself_at_its_deadline"),
    _sandbox("Frames of a size", ("supervisor/frames", "    if end > MAX_FRAME_BYTES:\n", "    if False:\n"),
             tests="unit/sandbox/test_frames.py"),
    _sandbox("The ear's place is not shared",
             ("supervisor/ear", "            listener = socket.socket()\n", "            listener = socket.socket()\n"
              "            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"),
             tests="integration/sandbox/test_ear.py::test_no_command_can_take_the_ears_place_even_while_nobody_serves_it"),
    _sandbox("No ids that are paths", ("supervised", "    if re.fullmatch(r\"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\", sandbox_id) is None:\n",
              "    if not sandbox_id or sandbox_id.startswith(\"..\"):\n"),
             tests="integration/sandbox/test_lifecycle.py::test_an_odd_id_is_refused"),
    _sandbox("Process 1's own files are no files", ("supervisor/files", " or found.st_dev in self._private", ""),
             tests=f"{_SUPERVISOR}::test_a_link_to_process_1s_own_descriptors_shows_no_results"),
    _sandbox("Process 1's own folders are no folders",
             ("supervisor/folders", "    if os.fstat(folder).st_dev in private_devices():\n", "    if False:\n"),
             tests="attacks/sandbox/test_archives.py"),
    _sandbox("Archives: no link is followed",
             ("supervisor/folders", "os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW", "os.O_PATH | os.O_DIRECTORY"),
             tests=_ARCHIVES),
    _sandbox("Archives: no absolute paths", ("supervisor/tar", '    if name.startswith(b"/"):\n', "    if False:\n"),
             tests=_ARCHIVES),
    _sandbox("Archives: no way up", ("supervisor/tar", '    if b".." in found:\n', "    if False:\n"), tests=_ARCHIVES),
    _sandbox("Archives: no devices, pipes and hard links",
             ("supervisor/tar", "    if entry.kind not in {FILE, FOLDER, LINK}:\n", "    if False:\n"), tests=_ARCHIVES),
    _sandbox("Archives: no special bits", ("supervisor/tar", "mode=_number(block[100:108]) & 0o777,",
              "mode=_number(block[100:108]) & 0o7777,"), tests=_ARCHIVES),
    _sandbox("Archives: so deep", ("supervisor/tar", " or len(found) > MAX_DEPTH", ""), tests=_ARCHIVES),
    _sandbox("Archives: so many entries", ("supervisor/tar", "        if self.headers > MAX_ENTRIES:\n", "        if False:\n"),
             tests=f"{_UNIT_ARCHIVES}::test_a_million_entries_are_refused"),
    _sandbox("Archives: so many bytes", ("supervisor/tar", "        if self.taken > self._max:\n", "        if False:\n"),
             ("supervisor/tar", "        if size > self._max:\n", "        if False:\n"), tests=_ARCHIVES),
    _sandbox("Archives: attributes of a size",
             ("supervisor/tar", "            if size > MAX_EXTENSION_BYTES:\n", "            if False:\n"), tests=_ARCHIVES),
    _sandbox("Archives: whole or not at all", ("supervisor/tar", "        if self._zeros < 2 or self._block:\n", "        if False:\n"),
             tests=f"{_ARCHIVES} integration/sandbox/test_archives.py::test_an_archive_that_breaks_off_leaves_nothing"),
    _sandbox("Archives: what is in the way is found first",
             ("supervisor/unpacking", "        yield from self._merge(move=False)\n", ""),
             tests="integration/sandbox/test_archives.py::test_what_is_in_the_way_is_named_and_nothing_is_changed"),
    _docker("Orders from the engine only", ("docker", '            "peer_uid": _BRIDGE_UID,\n', ""),
            tests=f"{_SUPERVISOR}::test_a_command_cannot_give_orders"),
    _docker("No capabilities", ("docker", 'cap_drop=["ALL"]', "cap_drop=[]"),
            tests=f"{_ESCAPE}::test_no_command_has_or_gets_capabilities"),
    _docker("No new privileges", ("docker", 'security_opt=["no-new-privileges"], ', ""),
            ("supervisor/confinement", "    prctl(_PR_SET_NO_NEW_PRIVS, 1)\n", ""), _UNCHECKED,
            tests=f"{_ESCAPE}::test_no_command_has_or_gets_capabilities"),
    _docker("Not root", ("docker", '"user": f"{_COMMAND_UID}:{_COMMAND_UID}"', '"user": "0:0"'), _UNCHECKED,
            tests=f"{_ESCAPE}::test_no_command_runs_as_root_of_the_host"),
    _docker("Shared memory of its own", ("docker", 'ipc_mode="private"', 'ipc_mode="host"'), ("docker", 'shm_size=f"{storage.SCRATCH_MB}m", ', ""),
            tests=f"{_ESCAPE}::test_no_shared_memory_of_the_host_is_there"),
    _docker("Masked files of the kernel",
            ("docker", 'security_opt=["no-new-privileges"]', 'security_opt=["no-new-privileges", "systempaths=unconfined"]'),
            tests=f"{_ESCAPE}::test_the_kernels_own_files_are_empty"),
    _docker("So many processes", ("docker", "            pids_limit=spec.pids + SPARE_PIDS, ", "            "),
            tests=f"{_RESOURCES}::test_processes_are_limited"),
    _docker("So much memory", ("docker", "mem_limit=memory, memswap_limit=memory, ", ""),
            tests=f"{_RESOURCES}::test_memory_beyond_what_was_asked_for_is_not_had"),
    _docker("So many open files", ("docker", ', Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES)', ""),
            tests=f"{_RESOURCES}::test_open_files_are_limited"),
    _docker("No core files", ("docker", 'Ulimit(name="core", soft=0, hard=0), ', ""),
            tests=f"{_RESOURCES}::test_no_core_file_is_written"),
    _docker("Folders of a size", ("docker", "size={megabytes}m,", ""), _UNCHECKED,
            tests=f"{_RESOURCES}::test_a_disk_that_is_filled_is_the_sandboxs_own"),
    _docker("So many files", ("docker", "nr_inodes={max(megabytes * INODES_PER_MB, 1024)},", ""),
            tests=f"{_RESOURCES}::test_inodes_run_out_before_the_host_does"),
]  # fmt: skip
PODS = [
    _pods("The network policy", _UNLOOKED,
          ("kubernetes/policy", '{"matchLabels": {INSTALLATION: installation}}', '{"matchLabels": {INSTALLATION: "none"}}'),
          tests=f"{_OF_PODS}::test_what_a_pod_could_reach_without_a_policy_it_does_not"),
    _pods("The boot canary", _UNLOOKED,
          tests=f"{_OF_PODS}::test_a_network_that_does_not_keep_to_its_policy_gets_no_sandbox"),
    _pods("The key is for a new sandbox only",
          ("kubernetes/stream", "    if state != CLAIMED and not may_claim:\n", "    if False:\n"),
          tests=f"{_OF_PODS}::test_a_pod_in_anothers_place_is_not_obeyed_and_not_given_the_key"),
]  # fmt: skip
REMOVALS = [*EGRESS, *SANDBOX, *PODS]
