<#
.SYNOPSIS
Step 1 on a Windows worker, once, as administrator: remoting, firewall, no sleep, clock, uv. -Undo takes all of it back.
.DESCRIPTION
SSH (-Ssh) is recommended: the master knows the worker by its host key, and copies are fast. Without -Ssh, PowerShell
remoting over HTTPS is set up with a certificate of this machine, which the master pins. No password is asked for or kept,
TrustedHosts is not touched, nothing unencrypted is switched on. Safe to run again.
.PARAMETER MasterIP
Addresses of the master and of all other workers. Only these are let in.
.PARAMETER Ssh
Set up the OpenSSH server with the public key in PublicKeyFile.
.PARAMETER PublicKeyFile
Public key of the master.
.PARAMETER PythonPath
Python of the deployment, for the firewall; the default is the one that "cluster deploy" makes.
.PARAMETER Undo
Restore what was there before.
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [string[]]$MasterIP = @(),
    [switch]$Ssh,
    [string]$PublicKeyFile = '',
    [string]$PythonPath = '',
    [switch]$Undo
)

Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
$StateFolder = Join-Path -Path $env:ProgramData -ChildPath 'loraloom-worker'
$StateFile = Join-Path -Path $StateFolder -ChildPath 'before.json'
$Group = 'loraloom cluster'
# Rules of Windows that let everybody in; they are switched off, and on again by -Undo where they were on.
$OpenRules = @('OpenSSH-Server-In-TCP', 'WINRM-HTTP-In-TCP', 'WINRM-HTTP-In-TCP-PUBLIC')
$PolicyKey = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System'

function Write-Utf8File {
    param([string]$Path, [string]$Text)
    # Windows PowerShell 5.1 would write a byte order mark, and PSCredential files in UTF-16.
    [System.IO.File]::WriteAllText($Path, $Text, (New-Object -TypeName System.Text.UTF8Encoding -ArgumentList $false))
}

function Test-Administrator {
    $identity = [Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = New-Object -TypeName Security.Principal.WindowsPrincipal -ArgumentList $identity
    return $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
}

function Get-SleepMinutes {
    param([string]$Setting)
    $lines = & powercfg /query SCHEME_CURRENT SUB_SLEEP $Setting
    $line = $lines | Where-Object { $_ -match 'AC.*0x([0-9a-fA-F]+)' } | Select-Object -Last 1
    if ($line -match '0x([0-9a-fA-F]+)') {
        return [int]([Convert]::ToInt32($Matches[1], 16) / 60)
    }
    return 0
}

function Get-EnabledRules {
    $found = @(Get-NetFirewallRule -Name $OpenRules -ErrorAction SilentlyContinue | Where-Object { "$($_.Enabled)" -eq 'True' })
    return @($found | ForEach-Object { $_.Name })
}

function Get-TokenPolicy {
    # Enable-PSRemoting sets it, so that local administrators keep their rights over the network.
    $item = Get-ItemProperty -Path $PolicyKey -ErrorAction SilentlyContinue
    if ($null -ne $item -and $item.PSObject.Properties.Name -contains 'LocalAccountTokenFilterPolicy') {
        return "$($item.LocalAccountTokenFilterPolicy)"
    }
    return ''
}

function Save-Before {
    # Only the first run sees what was there before; a second one must not overwrite it.
    if (Test-Path -Path $StateFile) {
        return
    }
    New-Item -ItemType Directory -Force -Path $StateFolder | Out-Null
    $before = @{
        Standby   = Get-SleepMinutes -Setting 'STANDBYIDLE'
        Hibernate = Get-SleepMinutes -Setting 'HIBERNATEIDLE'
        WinRM     = "$((Get-Service -Name 'WinRM').StartType)"
        Ssh       = [bool](Get-Service -Name 'sshd' -ErrorAction SilentlyContinue)
        Clock     = "$((Get-Service -Name 'W32Time').Status)"
        Rules     = (Get-EnabledRules) -join ','
        Policy    = Get-TokenPolicy
        Thumbprint = ''
        KeyLine   = ''
    }
    Write-Utf8File -Path $StateFile -Text ($before | ConvertTo-Json)
}

function Read-Before {
    return (Get-Content -Raw -Path $StateFile | ConvertFrom-Json)
}

function Set-Before {
    param([string]$Name, [string]$Value)
    $before = Read-Before
    $before.$Name = $Value
    Write-Utf8File -Path $StateFile -Text ($before | ConvertTo-Json)
}

function Add-Rule {
    param([string]$Name, [hashtable]$Where)
    Remove-NetFirewallRule -DisplayName $Name -ErrorAction SilentlyContinue
    New-NetFirewallRule -DisplayName $Name -Group $Group -Direction Inbound -Action Allow -Protocol TCP -RemoteAddress $MasterIP -Profile @('Private', 'Domain') @Where | Out-Null
}

function Enable-SshLogin {
    if (-not (Get-Service -Name 'sshd' -ErrorAction SilentlyContinue)) {
        Add-WindowsCapability -Online -Name 'OpenSSH.Server~~~~0.0.1.0' | Out-Null
    }
    $folder = Join-Path -Path $env:ProgramData -ChildPath 'ssh'
    Set-Service -Name 'sshd' -StartupType Automatic
    Start-Service -Name 'sshd'
    $keys = Join-Path -Path $folder -ChildPath 'administrators_authorized_keys'
    $line = (Get-Content -Raw -Path $PublicKeyFile).Trim()
    $present = @()
    if (Test-Path -Path $keys) {
        $present = @(Get-Content -Path $keys)
    }
    if ($present -notcontains $line) {
        Write-Utf8File -Path $keys -Text ((@($present) + $line) -join "`n")
        Set-Before -Name 'KeyLine' -Value $line
    }
    # S-1-5-32-544 and S-1-5-18 are Administrators and SYSTEM in every language of Windows.
    & icacls $keys /inheritance:r /grant '*S-1-5-32-544:F' /grant '*S-1-5-18:F' | Out-Null
    # The rule that comes with the capability lets everybody in.
    Disable-NetFirewallRule -Name 'OpenSSH-Server-In-TCP' -ErrorAction SilentlyContinue
    Add-Rule -Name 'loraloom ssh' -Where @{ LocalPort = 22 }
}

function Enable-HttpsRemoting {
    Enable-PSRemoting -Force | Out-Null
    $before = Read-Before
    $certificate = $null
    if ($before.Thumbprint -ne '') {
        $certificate = Get-Item -Path "Cert:\LocalMachine\My\$($before.Thumbprint)" -ErrorAction SilentlyContinue
    }
    if ($null -eq $certificate) {
        $names = @($env:COMPUTERNAME) + @(Get-NetIPAddress -AddressFamily IPv4 | Where-Object { $_.IPAddress -ne '127.0.0.1' } | ForEach-Object { $_.IPAddress })
        $certificate = New-SelfSignedCertificate -DnsName $names -CertStoreLocation 'Cert:\LocalMachine\My'
        Set-Before -Name 'Thumbprint' -Value $certificate.Thumbprint
        New-Item -Path 'WSMan:\localhost\Listener' -Transport HTTPS -Address '*' -CertificateThumbPrint $certificate.Thumbprint -Force | Out-Null
    }
    # Plain HTTP stays closed for other machines.
    Disable-NetFirewallRule -Name 'WINRM-HTTP-In-TCP' -ErrorAction SilentlyContinue
    Disable-NetFirewallRule -Name 'WINRM-HTTP-In-TCP-PUBLIC' -ErrorAction SilentlyContinue
    Add-Rule -Name 'loraloom remoting' -Where @{ LocalPort = 5986 }
    $pem = "-----BEGIN CERTIFICATE-----`n" + [Convert]::ToBase64String($certificate.RawData, 'InsertLineBreaks') + "`n-----END CERTIFICATE-----`n"
    Write-Utf8File -Path (Join-Path -Path (Get-Location) -ChildPath "$($env:COMPUTERNAME).pem") -Text $pem
}

function Write-Info {
    $gpus = @()
    if (Get-Command 'nvidia-smi' -ErrorAction SilentlyContinue) {
        $gpus = @(& nvidia-smi '--query-gpu=name,memory.total,driver_version' '--format=csv,noheader')
    }
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    $disk = Get-CimInstance -ClassName Win32_LogicalDisk -Filter "DeviceID='$($env:SystemDrive)'"
    $transport = 'psrp'
    if ($Ssh) {
        $transport = 'ssh'
    }
    $info = @{
        ComputerName = $env:COMPUTERNAME
        GPUCount     = $gpus.Count
        Transport    = $transport
        System       = 'windows'
        User         = $env:USERNAME
        GPUs         = $gpus
        Addresses    = @(Get-NetIPAddress -AddressFamily IPv4 | ForEach-Object { $_.IPAddress })
        MemoryBytes  = $system.TotalVisibleMemorySize * 1024
        FreeBytes    = $disk.FreeSpace
        OS           = "$($system.Caption) $($system.Version)"
    }
    Write-Utf8File -Path (Join-Path -Path (Get-Location) -ChildPath 'worker_info.json') -Text ($info | ConvertTo-Json)
    $info | ConvertTo-Json
}

function Get-Thumbprint {
    param($Listener)
    $item = Get-ChildItem -Path "WSMan:\localhost\Listener\$($Listener.Name)" | Where-Object { $_.Name -eq 'CertificateThumbprint' }
    if ($null -eq $item) {
        return ''
    }
    return "$($item.Value)"
}

function Restore-Before {
    if (-not (Test-Path -Path $StateFile)) {
        Write-Output 'nothing to undo'
        return
    }
    $before = Read-Before
    Get-NetFirewallRule -Group $Group -ErrorAction SilentlyContinue | Remove-NetFirewallRule
    & powercfg /change standby-timeout-ac "$($before.Standby)"
    & powercfg /change hibernate-timeout-ac "$($before.Hibernate)"
    if ($before.Thumbprint -ne '') {
        # A listener with another certificate was there before.
        Get-ChildItem -Path 'WSMan:\localhost\Listener' | Where-Object { (Get-Thumbprint -Listener $_) -eq $before.Thumbprint } | Remove-Item -Recurse -Confirm:$false
        Remove-Item -Path "Cert:\LocalMachine\My\$($before.Thumbprint)" -ErrorAction SilentlyContinue
        if ($before.WinRM -ne 'Automatic') {
            Stop-Service -Name 'WinRM'
            Set-Service -Name 'WinRM' -StartupType $before.WinRM
        }
        if ($before.Policy -eq '') {
            Remove-ItemProperty -Path $PolicyKey -Name 'LocalAccountTokenFilterPolicy' -ErrorAction SilentlyContinue
        }
    }
    if ($before.KeyLine -ne '') {
        $keys = Join-Path -Path $env:ProgramData -ChildPath 'ssh\administrators_authorized_keys'
        $kept = @(Get-Content -Path $keys | Where-Object { $_ -ne $before.KeyLine })
        Write-Utf8File -Path $keys -Text ($kept -join "`n")
        if (-not $before.Ssh) {
            Stop-Service -Name 'sshd'
            Set-Service -Name 'sshd' -StartupType Disabled
        }
    }
    foreach ($name in @($before.Rules -split ',' | Where-Object { $_ -ne '' })) {
        Enable-NetFirewallRule -Name $name -ErrorAction SilentlyContinue
    }
    if ($before.Clock -ne 'Running') {
        Stop-Service -Name 'W32Time'
    }
    Remove-Item -Path $StateFile
    Write-Output 'undone: firewall, sleep, remoting, clock'
}

if (-not (Test-Administrator)) {
    throw 'Start PowerShell as administrator, then run this again.'
}
if ($Undo) {
    if ($PSCmdlet.ShouldProcess($env:COMPUTERNAME, 'restore what was there before')) {
        Restore-Before
    }
    exit 0
}
if ($MasterIP.Count -eq 0) {
    throw 'Name the addresses of the master and of the other workers: -MasterIP 192.168.0.10,192.168.0.11'
}
if ($Ssh -and -not (Test-Path -Path $PublicKeyFile)) {
    throw 'With -Ssh, name the public key of the master: -PublicKeyFile id_ed25519.pub'
}
$public = @(Get-NetConnectionProfile | Where-Object { $_.NetworkCategory -eq 'Public' })
if ($public.Count -gt 0) {
    throw "The network $($public[0].Name) is public. Make it private in the settings of Windows, if it is your own."
}
if ($PSCmdlet.ShouldProcess($env:COMPUTERNAME, 'set up a worker of loraloom')) {
    Save-Before
    if ($Ssh) {
        Enable-SshLogin
    }
    else {
        Enable-HttpsRemoting
    }
    if ($PythonPath -eq '') {
        $PythonPath = Join-Path -Path $env:USERPROFILE -ChildPath 'loraloom-cluster\venv\Scripts\python.exe'
    }
    # gloo listens on ports that the system picks: Python is let in, from the machines of the cluster only.
    Add-Rule -Name 'loraloom training' -Where @{ Program = $PythonPath }
    & powercfg /change standby-timeout-ac 0
    & powercfg /change hibernate-timeout-ac 0
    Start-Service -Name 'W32Time'
    & w32tm /resync /force | Out-Null
    if (-not (Get-Command 'uv' -ErrorAction SilentlyContinue)) {
        & winget install --exact --id astral-sh.uv --silent --accept-source-agreements --accept-package-agreements
    }
    Write-Info
}
