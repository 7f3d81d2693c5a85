#!/usr/bin/env bash
# Step 1 on a Linux worker, once, as root: SSH login by key, a firewall that lets the cluster in, no sleep, clock, uv.
#
#   sudo scripts/worker_setup.sh --cluster 192.168.0.10,192.168.0.11 [--key KEY.pub] [--user NAME] [--range 29500:60999]
#   sudo scripts/worker_setup.sh --undo
#
# --cluster  addresses of the master and of all workers; only these are let in
# --key      public key of the master; without it the login must exist already
# --user     account that trains [default: the one that called sudo]
# --check    say what would be done; change nothing
#
# Safe to run again. What it changes is recorded below /var/lib/loraloom-worker and taken back by --undo.
set -euo pipefail

STATE=${LORALOOM_STATE:-/var/lib/loraloom-worker}
CLUSTER="" KEY="" ACCOUNT=${SUDO_USER:-$(id -un)} RANGE="1024:65535" UNDO=0 CHECK=0

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --cluster) CLUSTER=${2:?--cluster takes addresses} && shift 2 ;;
    --key) KEY=${2:?--key takes a file} && shift 2 ;;
    --user) ACCOUNT=${2:?--user takes a name} && shift 2 ;;
    --range) RANGE=${2:?--range takes FIRST:LAST} && shift 2 ;;
    --undo) UNDO=1 && shift ;;
    --check) CHECK=1 && shift ;;
    *) fail "unknown option $1" ;;
    esac
done

act() {
    if [ "$CHECK" = 1 ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@"
    fi
}

has() { command -v "$1" >/dev/null 2>&1; }

# Records an undo line once. --undo runs them from the last to the first.
record() {
    [ "$CHECK" = 1 ] && return
    mkdir -p "$STATE"
    touch "$STATE/undo"
    grep -qxF -- "$1" "$STATE/undo" || printf '%s\n' "$1" >>"$STATE/undo"
}

undo() {
    [ -f "$STATE/undo" ] || {
        echo "nothing to undo"
        return
    }
    tac "$STATE/undo" | while IFS= read -r line; do
        # shellcheck disable=SC2086
        set -- $line
        case $1 in
        ufw) ufw --force delete allow proto tcp from "$2" to any port "$3" >/dev/null || true ;;
        nft) nft delete table inet loraloom 2>/dev/null || true ;;
        key) home=$(getent passwd "$2" | cut -d: -f6) &&
            grep -vxFf "$STATE/key.pub" "$home/.ssh/authorized_keys" >"$STATE/keys" || true
            [ -f "$STATE/keys" ] && cat "$STATE/keys" >"$home/.ssh/authorized_keys" && rm -f "$STATE/keys" ;;
        mask) systemctl unmask "$2" >/dev/null 2>&1 || true ;;
        ntp) timedatectl set-ntp false || true ;;
        sshd) systemctl disable --now ssh >/dev/null 2>&1 || systemctl disable --now sshd >/dev/null 2>&1 || true ;;
        esac
        echo "undone: $line"
    done
    rm -rf -- "$STATE/undo" "$STATE/key.pub"
}

if [ "$UNDO" = 1 ]; then
    undo
    exit 0
fi

[ -n "$CLUSTER" ] || fail "--cluster is required: the addresses of the master and of all workers, with commas"
printf '%s' "$CLUSTER" | grep -Eq '^[0-9a-fA-F.:]+(,[0-9a-fA-F.:]+)*$' || fail "--cluster takes addresses with commas, got '$CLUSTER'"
printf '%s' "$RANGE" | grep -Eq '^[0-9]{1,5}:[0-9]{1,5}$' || fail "--range takes FIRST:LAST, got '$RANGE'"
id -u "$ACCOUNT" >/dev/null 2>&1 || fail "there is no account '$ACCOUNT'"
[ -z "$KEY" ] || [ -f "$KEY" ] || fail "the key file '$KEY' is missing"
[ "$CHECK" = 1 ] || [ "$(id -u)" = 0 ] || fail "run it with sudo"

# SSH server.
if ! has sshd && [ ! -x /usr/sbin/sshd ]; then
    if has apt-get; then
        act apt-get install -y openssh-server
    elif has dnf; then
        act dnf install -y openssh-server
    else
        fail "install an SSH server first"
    fi
fi
if has systemctl && ! systemctl is-active --quiet ssh 2>/dev/null && ! systemctl is-active --quiet sshd 2>/dev/null; then
    act systemctl enable --now ssh || act systemctl enable --now sshd || echo "note: start the SSH server yourself"
    record "sshd"
fi

# The master's key. Nothing is said about passwords: how this machine's owners log in stays as it is.
if [ -n "$KEY" ]; then
    home=$(getent passwd "$ACCOUNT" | cut -d: -f6)
    if ! grep -qxFf "$KEY" "$home/.ssh/authorized_keys" 2>/dev/null; then
        act install -d -m 700 -o "$ACCOUNT" -g "$(id -gn "$ACCOUNT")" "$home/.ssh"
        if [ "$CHECK" = 0 ]; then
            cat "$KEY" >>"$home/.ssh/authorized_keys"
            chown "$ACCOUNT:" "$home/.ssh/authorized_keys"
            chmod 600 "$home/.ssh/authorized_keys"
            mkdir -p "$STATE" && cp "$KEY" "$STATE/key.pub"
        fi
        record "key $ACCOUNT"
    fi
fi

# Firewall: from the addresses of the cluster only. gloo and NCCL listen on ports that the system picks.
if has ufw && ufw status 2>/dev/null | grep -q 'Status: active'; then
    for address in ${CLUSTER//,/ }; do
        for ports in 22 "$RANGE"; do
            act ufw allow proto tcp from "$address" to any port "$ports" comment loraloom
            record "ufw $address $ports"
        done
    done
elif has nft && nft list ruleset 2>/dev/null | grep -q 'hook input.*policy drop'; then
    echo "note: a firewall of nftables drops by default. Add to its input chain:"
    echo "  ip saddr { ${CLUSTER//,/, } } tcp dport { 22, ${RANGE/:/-} } accept"
else
    echo "firewall: none is active; nothing to open"
fi

# Sleep.
if has systemctl; then
    for unit in sleep.target suspend.target hibernate.target hybrid-sleep.target; do
        if [ "$(systemctl is-enabled "$unit" 2>/dev/null || true)" != masked ]; then
            act systemctl mask "$unit"
            record "mask $unit"
        fi
    done
fi

# Clock.
if has timedatectl && ! timedatectl show -p NTP --value 2>/dev/null | grep -qx yes; then
    if act timedatectl set-ntp true; then record "ntp"; else echo "note: synchronise the clock yourself"; fi
fi

# uv, in the account's own folder.
if ! has uv && [ ! -x "$(getent passwd "$ACCOUNT" | cut -d: -f6)/.local/bin/uv" ]; then
    act sudo -u "$ACCOUNT" python3 -m pip install --quiet --user uv ||
        act sudo -u "$ACCOUNT" python3 -m pip install --quiet --user --break-system-packages uv ||
        echo "note: install uv for $ACCOUNT"
fi

# What this machine is.
gpus=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null | sed 's/"/ /g' | awk '{printf "%s\"%s\"", (NR > 1 ? ", " : ""), $0}' || true)
count=$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)
addresses=$(hostname -I 2>/dev/null | awk '{for (i = 1; i <= NF; i++) printf "%s\"%s\"", (i > 1 ? ", " : ""), $i}' || true)
info=$(cat <<JSON
{
  "ComputerName": "$(hostname)",
  "GPUCount": ${count:-0},
  "Transport": "ssh",
  "System": "linux",
  "User": "$ACCOUNT",
  "GPUs": [$gpus],
  "Addresses": [$addresses],
  "MemoryBytes": $(awk '/MemTotal/ {printf "%d", $2 * 1024}' /proc/meminfo),
  "FreeBytes": $(df -PB1 / | awk 'NR == 2 {print $4}'),
  "HostKey": "$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null || true)",
  "OS": "$(. /etc/os-release 2>/dev/null && printf '%s' "${PRETTY_NAME:-Linux}")"
}
JSON
)
if [ "$CHECK" = 0 ]; then
    printf '%s\n' "$info" >worker_info.json
    echo "written: worker_info.json"
fi
printf '%s\n' "$info"
echo "host key to compare on the master: $(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null || echo 'none yet')"
