"""A stand-in of a Windows host's remoting service: HTTPS, a login by NTLM, and the exchange of a PowerShell remoting session.

A session is create shell, receive, command, send, receive, signal, delete. Envelopes are fixed texts as WinRM writes them;
the PSRP messages in them are made and read by pypsrp's own serializer. No PowerShell runs: of a script, its parameters are
taken, and the program that they name runs here, as `psrp.SCRIPT` would run it on Windows.
"""

import base64
import datetime
import hashlib
import ipaddress
import ssl
import subprocess
import sys
import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loraloom.extensions.transports.psrp import LATE

USER, PASSWORD = "trainer", "correct horse"

SOAP = (
    '<s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
    'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
    'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" '
    'xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" '
    'xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell">'
    "<s:Header><a:Action>{action}Response</a:Action><a:MessageID>uuid:{message}</a:MessageID>"
    "<a:RelatesTo>{related}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"
)
CREATED = (
    "<x:ResourceCreated><a:Address>https://host:5986/wsman</a:Address><a:ReferenceParameters>"
    "<w:ResourceURI>http://schemas.microsoft.com/powershell/Microsoft.PowerShell</w:ResourceURI>"
    '<w:SelectorSet><w:Selector Name="ShellId">{shell}</w:Selector></w:SelectorSet>'
    "</a:ReferenceParameters></x:ResourceCreated><rsp:Shell><rsp:ShellId>{shell}</rsp:ShellId>"
    "<rsp:ResourceUri>http://schemas.microsoft.com/powershell/Microsoft.PowerShell</rsp:ResourceUri>"
    "<rsp:Owner>HOST\\trainer</rsp:Owner><rsp:IdleTimeOut>PT7200.000S</rsp:IdleTimeOut>"
    "<rsp:InputStreams>stdin pr</rsp:InputStreams><rsp:OutputStreams>stdout</rsp:OutputStreams></rsp:Shell>"
)
DONE = (
    '<rsp:CommandState CommandId="{command}" State="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/'
    'CommandState/Done"><rsp:ExitCode>0</rsp:ExitCode></rsp:CommandState>'
)
TIMED_OUT = (
    "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:TimedOut</s:Value></s:Subcode></s:Code>"
    '<s:Reason><s:Text xml:lang="en-US">The WS-Management service cannot complete the operation within the time specified '
    'in OperationTimeout.</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/'
    'wsmanfault" Code="2150858793" Machine="host"><f:Message>The operation timed out.</f:Message></f:WSManFault>'
    "</s:Detail></s:Fault>"
)


FAILED = (
    '<Obj RefId="0"><MS><I32 N="PipelineState">5</I32><Obj N="ExceptionAsErrorRecord" RefId="1"><TN RefId="0">'
    "<T>System.Management.Automation.ErrorRecord</T><T>System.Object</T></TN><ToString>{text}</ToString><MS>"
    '<Obj N="Exception" RefId="2"><TN RefId="1"><T>System.Management.Automation.RuntimeException</T><T>System.Exception</T>'
    "<T>System.Object</T></TN><ToString>System.Management.Automation.RuntimeException: {text}</ToString>"
    '<Props><S N="Message">{text}</S></Props></Obj><Nil N="TargetObject" /><S N="FullyQualifiedErrorId">{text}</S>'
    '<Nil N="InvocationInfo" /><I32 N="ErrorCategory_Category">14</I32><S N="ErrorCategory_Activity"></S>'
    '<S N="ErrorCategory_Reason">RuntimeException</S><S N="ErrorCategory_TargetName">{text}</S>'
    '<S N="ErrorCategory_TargetType">String</S><S N="ErrorCategory_Message">OperationStopped: RuntimeException</S>'
    '<B N="SerializeExtendedInfo">false</B></MS></Obj></MS></Obj>'
)
"""PIPELINE_STATE of a script that threw."""


@dataclass(frozen=True)
class Raw:
    """A message whose body pypsrp reads but does not write."""

    kind: int
    body: bytes


@dataclass
class Pipeline:
    """A command of a shell: its messages, and what is to be received of it."""

    id: str
    given: bytearray = field(default_factory=bytearray)
    inputs: list[Any] = field(default_factory=list[Any])
    script: Any = None
    answers: list[Any] | None = None


@dataclass
class Host:
    """The service, and what it saw.

    Attributes:
        port: Where it listens on 127.0.0.1.
        certificate: Its certificate, PEM.
        seen: Actions in order: Create, Receive, Command, Send, Signal, Delete.
        envelopes: Requests as they came.
        piece_bytes: PSRP fragments are at most this long.
        times_out: Receives that end with WinRM's own timeout first.
        temp: Where copied files go.
    """

    certificate: Path
    temp: Path
    port: int = 0
    seen: list[str] = field(default_factory=list[str])
    envelopes: list[str] = field(default_factory=list[str])
    piece_bytes: int = 30_000
    times_out: int = 0
    shells: dict[str, list[Any]] = field(default_factory=dict[str, "list[Any]"])
    pipelines: dict[str, Pipeline] = field(default_factory=dict[str, Pipeline])
    counter: int = 0
    login_epoch: int = 0

    def drop_logins(self) -> None:
        """Ask everybody to log in again."""
        self.login_epoch += 1

    def pieces(self, shell: str, pipeline: str | None, data: Any) -> list[bytes]:
        """A message in fragments."""
        from pypsrp.messages import Destination, EndOfPipelineInput, Message
        from pypsrp.powershell import Fragment
        from pypsrp.serializer import Serializer

        raw = isinstance(data, Raw)
        message = Message(Destination.CLIENT, shell, pipeline, EndOfPipelineInput() if raw else data, Serializer())
        packed = bytearray(message.pack())
        if raw:
            packed[4:8] = data.kind.to_bytes(4, "little")
            packed += data.body
        self.counter += 1
        starts = range(0, len(packed), self.piece_bytes)
        return [
            Fragment(
                self.counter,
                number,
                bytes(packed[at : at + self.piece_bytes]),
                at == 0,
                at + self.piece_bytes >= len(packed),
            ).pack()
            for number, at in enumerate(starts)
        ]

    def answer(self, text: str) -> tuple[int, str]:
        """Status and envelope for a request."""
        self.envelopes.append(text)
        root = ET.fromstring(text)
        action = _text(root, "Action").rpartition("/")[2]
        self.seen.append(action)
        shell = root.find('.//{*}Selector[@Name="ShellId"]')
        body = getattr(self, f"on_{action.lower()}")(root, shell.text if shell is not None else "")
        reply = SOAP.format(action=action, message=uuid.uuid4(), related=_text(root, "MessageID"), body=body)
        return (500 if "<s:Fault>" in body else 200), reply

    def on_create(self, root: ET.Element, _: str) -> str:
        from pypsrp.messages import ApplicationPrivateData, RunspacePoolStateMessage, SessionCapability
        from pypsrp.powershell import RunspacePoolState

        shell_node = root.find(".//{*}Shell")
        assert shell_node is not None
        shell = shell_node.attrib["ShellId"].lower()
        hello = [SessionCapability("2.3", "2.0", "1.1.0.1"), ApplicationPrivateData({"PSVersionTable": None})]
        opened = RunspacePoolStateMessage(RunspacePoolState.OPENED)
        self.shells[shell] = [piece for data in (*hello, opened) for piece in self.pieces(shell, None, data)]
        return CREATED.format(shell=shell.upper())

    def on_receive(self, root: ET.Element, shell: str) -> str:
        stream = root.find(".//{*}DesiredStream")
        assert stream is not None
        command = stream.attrib.get("CommandId", "")
        if self.times_out:
            self.times_out -= 1
            return TIMED_OUT
        if not command:
            pieces, end = self.shells[shell.lower()], ""
        else:
            pipeline = self.pipelines[command.lower()]
            if pipeline.answers is None:
                pipeline.answers = self.run(shell.lower(), pipeline)
            pieces = pipeline.answers
            end = "" if len(pieces) > 1 else DONE.format(command=command)
        attribute = f' CommandId="{command}"' if command else ""
        # One fragment an answer: output arrives in as many answers as it has pieces.
        text = base64.b64encode(pieces.pop(0)).decode() if pieces else ""
        return (
            f'<rsp:ReceiveResponse><rsp:Stream Name="stdout"{attribute}>{text}</rsp:Stream>{end}</rsp:ReceiveResponse>'
        )

    def on_command(self, root: ET.Element, shell: str) -> str:
        line, arguments = root.find(".//{*}CommandLine"), root.find(".//{*}Arguments")
        assert line is not None
        assert arguments is not None
        command = line.attrib["CommandId"]
        self.pipelines[command.lower()] = Pipeline(command)
        self.take(command, arguments.text or "")
        return f"<rsp:CommandResponse><rsp:CommandId>{command}</rsp:CommandId></rsp:CommandResponse>"

    def on_send(self, root: ET.Element, shell: str) -> str:
        stream = root.find(".//{*}Stream")
        assert stream is not None
        self.take(stream.attrib["CommandId"], stream.text or "")
        return "<rsp:SendResponse/>"

    def on_signal(self, root: ET.Element, shell: str) -> str:
        return "<rsp:SignalResponse/>"

    def on_delete(self, root: ET.Element, shell: str) -> str:
        self.shells.pop(shell.lower(), None)
        return ""

    def take(self, command: str, text: str) -> None:
        """Fragments of the client: they end within a message, and several messages are in one text."""
        from pypsrp.complex_objects import ObjectMeta
        from pypsrp.complex_objects import Pipeline as ScriptPipeline
        from pypsrp.messages import Message, MessageType
        from pypsrp.powershell import Fragment
        from pypsrp.serializer import Serializer

        pipeline, data = self.pipelines[command.lower()], base64.b64decode(text)
        while data:
            fragment, data = Fragment.unpack(data)
            pipeline.given += fragment.data
            if fragment.end:
                kind = int.from_bytes(pipeline.given[4:8], "little")
                if kind == MessageType.CREATE_PIPELINE:  # pypsrp cannot read all of its own message back: HostInfo
                    node = ET.fromstring(pipeline.given[40:]).find('.//*[@N="PowerShell"]')
                    read = Serializer().deserialize(node, ObjectMeta("Obj", object=ScriptPipeline))
                    pipeline.script = read.commands[0]
                elif kind == MessageType.PIPELINE_INPUT:
                    pipeline.inputs.append(Message.unpack(bytes(pipeline.given), Serializer()).data.data)
                pipeline.given.clear()

    def run(self, shell: str, pipeline: Pipeline) -> list[bytes]:
        from pypsrp.complex_objects import PSInvocationState
        from pypsrp.messages import MessageType, PipelineState
        from pypsrp.serializer import Serializer

        try:
            rows = self.outputs(pipeline)
            bodies = [ET.tostring(Serializer().serialize(row)) for row in rows]
            state: Any = PipelineState(PSInvocationState.COMPLETED)
        except ScriptError as thrown:
            bodies, state = [], Raw(MessageType.PIPELINE_STATE, FAILED.format(text=thrown).encode())
        datas = [*(Raw(MessageType.PIPELINE_OUTPUT, body) for body in bodies), state]
        return [piece for data in datas for piece in self.pieces(shell, pipeline.id.lower(), data)]

    def outputs(self, pipeline: Pipeline) -> list[Any]:
        """What the script of a pipeline writes."""
        values = {str(arg.name or "").lstrip("-").rstrip(":"): arg.value for arg in pipeline.script.args}
        if pipeline.script.cmd == "Remove-Item":
            Path(str(values["LiteralPath"])).unlink()
            return []
        if "Program" not in values:  # pypsrp's own script of a file copy: chunks as base64, then the sum
            *chunks, digest = pipeline.inputs
            data = b"".join(base64.b64decode(chunk) for chunk in chunks)
            assert hashlib.sha1(data).hexdigest() == base64.b64decode(digest).decode()
            target = self.temp / str(pipeline.script.args[0].value)
            target.write_bytes(data)
            return [str(target)]
        return self.program(values)

    def program(self, values: dict[str, Any]) -> list[Any]:
        data = Path(values["File"]).read_bytes() if values["File"] else base64.b64decode(values["Data"])
        line = [str(values["Program"]), *windows_arguments(str(values["Line"]))]
        try:
            ran = subprocess.run(
                line, input=data, capture_output=True, check=False, timeout=int(values["Milliseconds"]) / 1000
            )
        except FileNotFoundError:
            raise ScriptError("The system cannot find the file specified.") from None
        except subprocess.TimeoutExpired:
            raise ScriptError(LATE) from None
        return [ran.returncode, base64.b64encode(ran.stdout).decode(), base64.b64encode(ran.stderr).decode()]


class ScriptError(Exception):
    """What a script ends with."""


def _text(root: ET.Element, name: str) -> str:
    found = root.find(f".//{{*}}{name}")
    return (found.text or "") if found is not None else ""


def windows_arguments(line: str) -> list[str]:
    """A command line as the C runtime of Windows splits it: the reverse of `subprocess.list2cmdline`."""
    found: list[str] = []
    current, quoted, started, at = "", False, False, 0
    while at < len(line):
        slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
        at += slashes
        if at < len(line) and line[at] == '"':
            current += "\\" * (slashes // 2)
            started = True
            if slashes % 2:
                current += '"'
            else:
                quoted = not quoted
            at += 1
        else:
            current += "\\" * slashes
            started = started or bool(slashes)
            if at < len(line):
                if line[at] in " \t" and not quoted:
                    if started:
                        found.append(current)
                    current, started = "", False
                else:
                    current, started = current + line[at], True
                at += 1
    return [*found, current] if started else found


def make_certificate(folder: Path, name: str = "host") -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key, as worker_setup.ps1 makes one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    return pem, secret


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off, at a certificate that it does not know say, is no news; the rest is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        context: Any = None
        epoch = 0

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.epoch != host.login_epoch:
                self.context, self.epoch = None, host.login_epoch
            if not (self.context and self.context.complete) and not self.login():
                return
            status, reply = host.answer(text.decode())
            self.reply(status, reply)

        def login(self) -> bool:
            """One leg of the login; whether it is complete."""
            import spnego
            from spnego.exceptions import SpnegoError

            _, _, token = self.headers.get("Authorization", "").partition(" ")
            if not token:
                self.reply(401, challenge="Negotiate")
                return False
            self.context = self.context or spnego.server(protocol="negotiate")
            try:
                out = self.context.step(base64.b64decode(token))
            except SpnegoError:
                self.context = None
                self.reply(401, challenge="Negotiate")
                return False
            if self.context.complete:
                return True
            self.reply(401, challenge=f"Negotiate {base64.b64encode(out or b'').decode()}")
            return False

        def reply(self, status: int, text: str = "", challenge: str = "") -> None:
            data = text.encode()
            self.send_response(status)
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            return

    return Handler


@contextmanager
def wsman_server(folder: Path, setenv: Callable[[str, str], None]) -> Iterator[Host]:
    """The service for the block; `setenv` sets a variable of this process for as long (NTLM's list of accounts)."""
    pem, key = make_certificate(folder)
    accounts = folder / "accounts"
    accounts.write_text(f"HOST:{USER}:{PASSWORD}\n")
    setenv("NTLM_USER_FILE", str(accounts))
    host = Host(certificate=pem, temp=folder)
    server = _Server(("127.0.0.1", 0), _handler(host))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    host.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
